"""What mmseg ships to be run, and what comes of it with ours.

Rows of :class:`table.Entry`, without the framework.
"""

from outcomes import BY_HAND, FOR_CONVERTING, GPU, SERVICE, SLURM, TRUSTING, WORKS

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
