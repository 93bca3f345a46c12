"""What runs the models: the command line of ``tools/train.py`` and ``test.py``."""
