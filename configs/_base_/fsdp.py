# FSDP: parameters, gradients and optimiser states are sharded over the processes.
# List this after the recipe in _base_. Blocks are gathered one at a time.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='mmmanikey.ShardedStrategy',
    model_wrapper=dict(auto_wrap_policy='mmmanikey.wrap_blocks'),
    state_dict_cfg='full',
)
