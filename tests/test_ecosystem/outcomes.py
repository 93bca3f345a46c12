"""What comes of a script of the frameworks with our backbones, in words."""

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
