"""What mmdet, mmseg and mmpretrain ship to be run, and what comes of it with ours.

Rows of :class:`table.Entry`, without the framework.
"""

WORKS = 'works'
#: Of what costs a test too much, or wants packages that the tests do not install.
BY_HAND = 'works (once by hand)'
TRUSTING = (
    'works with `TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`; without it torch 2.6 and later '
    "refuse every checkpoint of mmengine's"
)
FOR_CONVERTING = "converts other people's data or weights, and reads no config of ours"
FOR_OTHERS = 'for other kinds of models: '
GPU = 'needs a GPU'
SLURM = 'needs Slurm'
SERVICE = (
    'needs TorchServe, and was run by hand without its server: with the package '
    '`torch-model-archiver` {} the archive is made, {}'
)
NETWORK = 'needs the network'

MMDET = (
    ('train.py', WORKS, '', '', 'test_mmdet_scripts.py::test_train'),
    (
        'test.py',
        WORKS + ', but for `--tta`, which mmdet does not do for masks',
        '',
        '',
        'test_mmdet_scripts.py::test_test',
    ),
    (
        'analysis_tools/analyze_logs.py',
        WORKS,
        'plot_curve {log} --keys loss segm_mAP --style=default --backend=Agg '
        '--out=curves.png',  # without a style it asks for one that matplotlib has not
        'curves.png',
        'test_mmdet_scripts.py::test_analyze_logs',
    ),
    (
        'analysis_tools/analyze_results.py',
        WORKS,
        '{config} {pkl} analyzed --topk=2',
        'analyzed/good/*.png',
    ),
    (
        'analysis_tools/benchmark.py',
        WORKS + '; `--task inference` needs a GPU',
        '{config} --checkpoint={checkpoint} --task=dataloader --max-iter=4 '
        '--num-warmup=1 --log-interval=1 --cfg-options test_dataloader.batch_size=1',
        r'Overall fps: \d',
        'test_mmdet_scripts.py::test_benchmark',
    ),
    (
        'analysis_tools/browse_dataset.py',
        WORKS,
        '{config} --not-show --output-dir=browsed',
        'browsed/*.png',
    ),
    (
        'analysis_tools/coco_error_analysis.py',
        WORKS,
        '{json} errors --ann={annotations} --types=bbox',
        'errors/bbox/*.png',
    ),
    (
        'analysis_tools/coco_occluded_separated_recall.py',
        NETWORK
        + ": it loads lists of COCO's objects. With empty lists in their place, "
        "objects that have names of COCO's and a stand-in for the recall's "
        'computation, its loading, matching and table were seen to work (by hand)',
    ),
    (
        'analysis_tools/confusion_matrix.py',
        WORKS,
        '{config} {pkl} confused',
        'confused/confusion_matrix.png',
    ),
    ('analysis_tools/eval_metric.py', WORKS, '{config} {pkl}', 'coco/segm_mAP'),
    (
        'analysis_tools/fuse_results.py',
        'fails for everybody: it reads an argument that its parser does not have',
        '{json} {json} --annotation={annotations} --out-dir=fused',
        "'Namespace' object has no attribute 'models_name'",
    ),
    (
        'analysis_tools/get_flops.py',
        WORKS,
        '{config} --num-images=1 --cfg-options model.backbone.init_cfg=None',
        r'Flops: \d',
        'test_mmdet_scripts.py::test_get_flops',
    ),
    (
        'analysis_tools/optimize_anchors.py',
        FOR_OTHERS + "YOLO's, whose anchors have sizes of their own. With a YOLOv3 on "
        'our Swin, ' + BY_HAND,
        '{config} --output-dir=anchors',
        "'ConfigDict' object has no attribute 'bbox_head'",
    ),
    ('misc/get_image_metas.py', "reads OpenImages' lists, csv or txt, alone"),
    (
        'misc/print_config.py',
        WORKS,
        '{config}',
        '{backbone}',
        'test_mmdet_scripts.py::test_print_config',
    ),
    (
        'model_converters/publish_model.py',
        TRUSTING,
        '{checkpoint} published.pth',
        'published-*.pth',
    ),
    (
        'init_detector, inference_detector',
        WORKS,
        """
from mmdet.apis import inference_detector, init_detector
model = init_detector({config!r}, {checkpoint!r}, device='cpu')
print('found', len(inference_detector(model, {image!r}).pred_instances.masks))
""",
        r'found \d+',
    ),
    ('DetInferencer', WORKS, '', '', 'test_inferencers.py::test_inferencer'),
    (
        'analysis_tools/test_robustness.py',
        'fails for everybody: mmdet 3.5.1 has no transform `Corrupt`, which it inserts '
        '(by hand, from `.mim`, since it imports `tools`)',
    ),
    (
        'analysis_tools/robustness_eval.py',
        'reads what `test_robustness.py` writes; of images as they are, it ' + BY_HAND,
    ),
    (
        'analysis_tools/*grounding*.py',
        FOR_OTHERS + 'grounding, whose backbone reads texts too',
    ),
    ('analysis_tools/mot/*', FOR_OTHERS + 'tracking'),
    ('*test_tracking*', FOR_OTHERS + 'tracking'),
    (
        'inference_mot, init_track_model',
        FOR_OTHERS + 'tracking. With our Swin in the detector of SORT, ' + BY_HAND,
    ),
    (
        'async_inference_detector',
        'fails for everybody: it reads configs as mmdet 2 had them',
        """
import asyncio
from mmdet.apis import async_inference_detector, init_detector
model = init_detector({config!r}, {checkpoint!r}, device='cpu')
asyncio.run(async_inference_detector(model, {image!r}))
""",
        "'ConfigDict' object has no attribute 'data'",
    ),
    ('dist_*.sh', GPU + ', one for each process'),
    ('slurm_*.sh', SLURM),
    ('deployment/*', SERVICE.format('0.12', 'and its handler wants a GPU')),
    ('misc/download_dataset.py', NETWORK),
    ('misc/*', FOR_CONVERTING),
    ('model_converters/*', FOR_CONVERTING),
    ('dataset_converters/*', FOR_CONVERTING),
)
MMSEG = (
    ('train.py', WORKS, '', '', 'test_mmseg_scripts.py::test_train'),
    (
        'test.py',
        WORKS,
        '{config} {checkpoint} --tta {options}',
        r'mIoU: +\d',
        'test_mmseg_scripts.py::test_test',
    ),
    (
        'analysis_tools/benchmark.py',
        WORKS,
        '{repeated} {checkpoint} --work-dir=fps',
        r'Average fps of 1 evaluations: \d',
    ),
    (
        'analysis_tools/confusion_matrix.py',
        'reads the data sets that mmseg knows, no `metainfo`; not run with ours',
        '',
        '',
        '',
        'it draws those of Cityscapes, but with NumPy 2 its numbers of 8 bits '
        'overflow: of a prediction that equals its labels it drew a third as wrong '
        '(by hand)',
    ),
    (
        'analysis_tools/get_flops.py',
        WORKS,
        '{config} --shape 128 128 --cfg-options model.backbone.init_cfg=None',
        r'Flops: \d',
    ),
    (
        'analysis_tools/browse_dataset.py',
        WORKS,
        '{config} --output-dir=browsed --not-show',
        'browsed/*.[jp]*g',
    ),
    (
        'misc/browse_dataset.py',
        'works for the data sets that mmseg knows; it does not read `metainfo` as the '
        'one in `analysis_tools` does',
        '{ade} --output-dir=browsed_ade --not-show',
        'browsed_ade/*/*/*.png',
    ),
    ('misc/print_config.py', WORKS, '{config}', '{backbone}'),
    (
        'misc/publish_model.py',
        TRUSTING,
        '{checkpoint} published_labels.pth',
        'published_labels-*.pth',
    ),
    (
        'deployment/pytorch2torchscript.py',
        "fails on every config with `test_cfg`, as all of mmseg's have: it is passed "
        'twice; see [Deployment](deploy.md)',
        '{config} --checkpoint={checkpoint} --output-file=traced.pt --shape 128 128',
        'test_cfg specified in both outer field and model field',
    ),
    (
        'init_model, inference_model, show_result_pyplot',
        WORKS,
        """
from mmseg.apis import inference_model, init_model, show_result_pyplot
model = init_model({config!r}, {checkpoint!r}, device='cpu')
result = inference_model(model, {image!r})
show_result_pyplot(model, {image!r}, result, show=False, out_file='shown.png')
""",
        'shown.png',
    ),
    ('MMSegInferencer', WORKS, '', '', 'test_inferencers.py::test_inferencer'),
    (
        'analysis_tools/analyze_logs.py',
        'needs the package `seaborn`; with 0.13.2 it ' + BY_HAND,
    ),
    (
        'analysis_tools/visualization_cam.py',
        'needs an older `grad-cam`: 1.5.7 takes no `use_cuda`; with 1.4.8 it '
        + BY_HAND,
        '{image} {config} {checkpoint} --device=cpu '
        '--target-layers=decode_head.fpn_bottleneck',
        r"unexpected keyword argument 'use_cuda'",
    ),
    ('RSInferencer, RSImage', 'needs the package `gdal`'),
    ('dist_*.sh', GPU + ', one for each process'),
    ('slurm_*.sh', SLURM),
    ('torchserve/*', SERVICE.format('0.6', 'and its handler fails on every result')),
    ('model_converters/*', FOR_CONVERTING),
    ('dataset_converters/*', FOR_CONVERTING),
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
