# The package, and the order of the data from the seed and the epoch alone.
custom_imports = dict(imports=['mmmanikey'], allow_failed_imports=False)
custom_hooks = [dict(type='mmmanikey.EpochSeedHook')]
