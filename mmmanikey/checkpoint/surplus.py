"""What a backbone has no place for: by design, or for want of an argument.

A weight that is thrown away changes the network, so it is refused, with the argument
that makes the place. What a backbone does without by design is left out for a stated
reason.
"""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from .describe import describe_key

#: Rebuilt by the backbone itself, and never loaded.
BUFFERS = ('relative_position_index', 'attn_mask')
NUMBERED = re.compile(r'(stages|layers)\.(\d+)\.(?:blocks\.(\d+)\.)?')
ATTENTION = re.compile(r'.*\.attn\.(w_msa\.)?')
#: (pattern of parameter names, argument that makes the place); the first match counts.
ARGUMENTS = (
    (r'.*\.qkv\.key\.', 'mmmanikey.with_keys'),
    (r'.*\.gamma[12]\.', 'layer_scale_init_value=1e-5'),
    (r'absolute_pos_embed$', 'use_abs_pos_embed=True'),
    (r'.*\.rel_pos_[hw]$', 'use_rel_pos=True'),
    (r'pre_norm\.', 'pre_norm=True'),
    (r'patch_embed\.norm\.', "patch_cfg=dict(norm_cfg=dict(type='LN'))"),
    (r'.*\.ffn\.w(12|3)\.', "layer_cfgs=dict(ffn_type='swiglu_fused')"),
)


def reason_to_drop(name: str, own: Collection[str]) -> str | None:
    """Why the backbone, with its ``own`` names, does without a weight by design."""
    if name in ('cls_token', 'dist_token') and 'cls_token' not in own:
        return 'the backbone has no class token'
    norm = re.match(r'(norm\d+|ln[12])\.', name)
    if norm and not any(other.startswith(norm[0]) for other in own):
        return 'final or output norm, which the backbone does without'
    return None


def argument_for(
    name: str, own: Collection[str], weights: Mapping[str, Tensor]
) -> str | None:
    """The argument of the backbone that makes a place for a weight of a file."""
    return (
        deeper_arch(name, own, weights)
        or key_argument(name, weights)
        or query_and_value(name, own)
        or tokens(name, weights)
        or next((text for start, text in ARGUMENTS if re.match(start, name)), None)
    )


def deeper_arch(
    name: str, own: Collection[str], weights: Mapping[str, Tensor]
) -> str | None:
    """The depth of the file, if the weight is of a layer that the backbone lacks."""
    match = NUMBERED.match(name)
    part = name.startswith('stages.') and re.match(r'stages\.\d+\.downsample\.', name)
    start = match and (part or match)[0]
    if not start or any(other.startswith(start) for other in own):
        return None
    if not any(other.startswith(f'{match[1]}.') for other in own):
        return None  # a Swin's in a ViT, or the other way round
    depth = depth_of(weights)
    if match[1] == 'layers':
        return f'an arch with num_layers={sum(depth)}'
    text = f'an arch with depths={depth}'
    kept = len(depth_of(own))
    if kept < len(depth):
        text += f', of which out_indices={tuple(range(kept))} gives the first maps'
    return text


def depth_of(names: Collection[str]) -> list[int]:
    """Blocks of each stage of a Swin, or ``[layers]`` of a ViT."""
    depths: dict[int, set[int]] = {}
    for match in filter(None, map(NUMBERED.match, names)):
        if match[1] == 'layers':
            depths.setdefault(0, set()).add(int(match[2]))
        elif match[3]:
            depths.setdefault(int(match[2]), set()).add(int(match[3]))
    return [len(blocks) for _, blocks in sorted(depths.items())]


def key_argument(name: str, weights: Mapping[str, Tensor]) -> str | None:
    """The key of the file, if the weight is of one."""
    match = ATTENTION.match(name)
    if not match or not name[match.end() :].startswith('key.'):
        return None
    start = match[0]
    key = describe_key(
        {n[len(start) :]: v for n, v in weights.items() if n.startswith(start)}
    )
    charts = f', num_charts={key["num_charts"]}' if 'num_charts' in key else ''
    residual = ', residual=True' if key.get('residual') else ''
    return f'key=dict(type={key["type"]!r}{charts}{residual})'


def query_and_value(name: str, own: Collection[str]) -> str | None:
    """The argument for a bias, or for the linear key beside the backbone's own."""
    match = re.match(r'(.*)\.(qkv|qv)\.(weight|bias)$', name)
    if not match:
        return None
    layer, part, kind = match.groups()
    if kind == 'bias' and f'{layer}.{part}.weight' in own:
        if name.startswith('stages.'):
            return 'stage_cfgs=dict(block_cfgs=dict(attn_cfgs=dict(qkv_bias=True)))'
        return 'qkv_bias=True'
    if part == 'qkv' and f'{layer}.qv.weight' in own:
        return "residual=True in the key's config"
    return None


def tokens(name: str, weights: Mapping[str, Tensor]) -> str | None:
    """What is to be done about tokens besides the image's."""
    if name == 'register_tokens' and weights[name].dim() == 3:
        return f'num_registers={weights[name].shape[1]}'
    if name == 'dist_token':
        return 'weights of the model without distillation'
    return None
