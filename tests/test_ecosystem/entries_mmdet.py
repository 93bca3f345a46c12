"""What mmdet ships to be run, and what comes of it with ours.

Rows of :class:`table.Entry`, without the framework.
"""

from outcomes import (
    BY_HAND,
    FOR_CONVERTING,
    FOR_OTHERS,
    GPU,
    NETWORK,
    SERVICE,
    SLURM,
    TRUSTING,
    WORKS,
)

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
