"""What `setup_env.py` and `build_mmcv.py` share; standard library only.

Their syntax is that of Python 3.6, so that an old Python gets as far as saying that it
is too old. Only `mmcv_setup.py` runs beside torch.
"""
