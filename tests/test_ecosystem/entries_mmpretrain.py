"""What mmpretrain ships to be run, and what comes of it with ours.

Rows of :class:`table.Entry`, without the framework.
"""

from outcomes import (
    BY_HAND,
    FOR_CONVERTING,
    FOR_OTHERS,
    GPU,
    SERVICE,
    SLURM,
    TRUSTING,
    WORKS,
)

MMPRETRAIN = (
    ('train.py', WORKS, '', '', 'test_mmpretrain_scripts.py::test_train'),
    (
        'test.py',
        WORKS,
        '{config} {checkpoint} --tta',
        r'accuracy/top1: \d',
        'test_mmpretrain_scripts.py::test_test',
    ),
    (
        'kfold-cross-valid.py',
        WORKS,
        '{config} --num-splits=2 --fold=0 --work-dir=folds {options}',
        'folds/fold0/epoch_1.pth',
    ),
    (
        'analysis_tools/analyze_logs.py',
        WORKS,
        'plot_curve {log} --keys loss --out=curve.png',
        'curve.png',
    ),
    (
        'analysis_tools/analyze_results.py',
        WORKS,
        '{config} {pkl} --out-dir=analyzed_classes --topk=2',
        'analyzed_classes/*/*.png',
    ),
    (
        'analysis_tools/confusion_matrix.py',
        WORKS,
        '{config} {pkl} --out=confused.pkl',
        'confused.pkl',
    ),
    (
        'analysis_tools/eval_metric.py',
        WORKS,
        '{pkl} --metric type=Accuracy topk=1',
        'accuracy/top1',
    ),
    ('analysis_tools/get_flops.py', WORKS, '{config} --shape 64', r'Flops: \d'),
    (
        'visualization/browse_dataset.py',
        WORKS + ' with `--mode original`; the other modes fail with matplotlib 3.11',
        '{config} --output-dir=browsed_classes --not-show -n=2 --mode=original',
        'browsed_classes/*.png',
    ),
    (
        'visualization/vis_cam.py',
        WORKS,
        '{image} {config} {checkpoint} --vit-like --save-path=cam.png',
        'cam.png',
        'test_mmpretrain_scripts.py::test_vis_cam',
    ),
    (
        'visualization/vis_scheduler.py',
        WORKS,
        '{config} --not-show --save-path=rates.png',
        'rates.png',
    ),
    (
        'visualization/vis_tsne.py',
        WORKS,
        '{config} --checkpoint={checkpoint} --work-dir=tsne --perplexity=5 '
        '--device=cpu',
        'tsne/*/*.png',
    ),
    ('misc/print_config.py', WORKS, '{config}', '{backbone}'),
    (
        'misc/verify_dataset.py',
        WORKS,
        '{config} --out-path=broken.log --num-process=1',
        'There is no broken file found',
    ),
    (
        'model_converters/publish_model.py',
        TRUSTING,
        '{checkpoint} published_classes.pth',
        'published_classes*.pth',
    ),
    (
        'get_model, init_model, FeatureExtractor',
        WORKS,
        """
from mmpretrain import FeatureExtractor, get_model
from mmpretrain.apis import init_model
for build in (get_model, init_model):
    model = build({config!r}, {checkpoint!r}, device='cpu')
    assert type(model.backbone).__name__ == {backbone!r}
features = FeatureExtractor({config!r}, {checkpoint!r}, device='cpu')({image!r})
print('features', *features[0][0].shape)
""",
        'features {channels}',
    ),
    (
        'inference_model',
        "takes models by names for which mmpretrain's index has results, and no "
        "config's path, as `ImageClassificationInferencer` does",
        """
from mmpretrain import get_model, inference_model
inference_model(get_model({config!r}, {checkpoint!r}, device='cpu'), {image!r})
""",
        'No available inferencer for the model',
    ),
    (
        'ImageClassificationInferencer',
        WORKS,
        '',
        '',
        'test_inferencers.py::test_inferencer',
    ),
    (
        'list_models, ModelHub',
        WORKS + ', once `ModelHub.register_model_index` has read `model-index.yml`',
        """
from mmpretrain import ModelHub, list_models
for folder in {indexes!r}:
    ModelHub.register_model_index(folder + '/model-index.yml', config_prefix=folder)
(name,) = list_models({model!r})
print('found', ModelHub.get(name).config.model.backbone.type)
""",
        r'found (mmmanikey\.)?{backbone}',
        '',
        WORKS,
    ),
    ('BaseInferencer', 'is the base of the others'),
    (
        'ImageRetrievalInferencer',
        FOR_OTHERS + "retrieval. With the backbone of mmpretrain's ArcFace replaced by "
        'ours, ' + BY_HAND,
    ),
    (
        '*TextRetrievalInferencer, TextToImage*, *CaptionInferencer, '
        '*GroundingInferencer, *AnsweringInferencer, NLVRInferencer',
        FOR_OTHERS + 'texts with images',
    ),
    ('analysis_tools/shape_bias.py', 'draws tables that other runs have written'),
    ('analysis_tools/utils.py', 'is a part of `shape_bias.py`'),
    (
        'model_converters/merge_lora_weight.py',
        FOR_OTHERS + 'LoRA. With our ViT in `LoRAModel`, whose layers of query and '
        'value are `qv` where the key is a manifold, ' + BY_HAND,
    ),
    (
        'model_converters/reparameterize_model.py',
        FOR_OTHERS
        + 'backbones that are trained in another form; it refuses any Swin (by hand)',
    ),
    ('dist_*.sh', GPU + ', one for each process'),
    ('slurm_*.sh', SLURM),
    ('benchmarks/*', GPU + ', one for each process, and mim'),
    (
        'torchserve/*',
        SERVICE.format('0.6', 'its handler was not asked'),
        '',
        '',
        '',
        'the same, and its handler classifies',
    ),
    ('model_converters/*', FOR_CONVERTING),
    ('dataset_converters/*', FOR_CONVERTING),
)
