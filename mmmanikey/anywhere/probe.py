"""Find the layers that make the keys of a model's attentions.

Not from the paper. No name and no layout is known beforehand: one forward pass is
watched under a ``TorchFunctionMode``
(https://docs.pytorch.org/docs/stable/torch.overrides.html). The output of each dense
projection is cut from the graph, so that at an attention the gradient of the key
reaches the projections that made it, on the channels that are its.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules
from torch.overrides import TorchFunctionMode

from ..attention.keyed import DENSE, PRODUCTS, operands_of
from ..forms.rule import is_plain
from .dependence import gradients, reaches, summed_axis

OF_LOGITS = {*PRODUCTS, torch.bmm, torch.Tensor.bmm, torch.baddbmm, torch.einsum}
SOFTMAX = {F.softmax, torch.softmax, torch.Tensor.softmax, torch.special.softmax}
NOT_PLAIN = (
    'makes its key with a weight that is no plain parameter: insert keys before '
    'weights are normed, pruned, quantised or sharded'
)


@dataclass
class Projection:
    """A dense layer's input, and its output cut from the graph."""

    layer: str | None  # which holds the weight
    weight: str  # its name there
    caller: str  # the module that runs
    x: Tensor
    leaf: Tensor
    dim: int  # of the channels
    problem: str
    called: bool = False  # whether the layer's own forward returned it

    def by_channel(self, grad: Tensor) -> Tensor:
        """A gradient of the output as (tokens, channels)."""
        return grad.movedim(self.dim, -1).flatten(0, -2)


@dataclass
class Site:
    """An attention module, and the layer that makes its key."""

    attention: str
    problem: str = ''  # why it cannot take a key
    layer: str = ''
    called: bool = True  # or else its weight is read
    in_shape: tuple[int, ...] = ()  # channels last
    out_dims: int = 0
    rows: Tensor | None = None  # the channels of its output that are the key
    heads: int = 0
    weight: str = ''  # name of the layer's weight

    @property
    def path(self) -> str:
        """Name of the layer within the attention."""
        return self.layer.removeprefix(self.attention).lstrip('.')

    def join(self, other: 'Site') -> None:
        """Take the channels of other heads, and their problem."""
        head_dims = len(self.rows) // self.heads
        self.rows = torch.cat((self.rows, other.rows)).unique()
        self.heads = len(self.rows) // head_dims
        self.problem = self.problem or other.problem


class Probe(TorchFunctionMode):
    """Collects the sites of the forward pass that runs inside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.sites, self.running = model, [], ['']
        # a key is made shortly before it is used; to keep all would fill the memory
        self.projections: deque[Projection] = deque(maxlen=48)
        self.products: deque[tuple] = deque(maxlen=12)  # operands, output, letters
        self.softmaxes: deque[tuple] = deque(maxlen=4)  # site, its key's, output
        self.names = {module: name for name, module in model.named_modules()}
        self.owners = {
            id(p): (name, own)
            for m, name in self.names.items()
            for own, p in m._parameters.items()
        }

    def __enter__(self) -> 'Probe':
        self.hooks = [
            torch_modules.register_module_forward_pre_hook(self.enter),
            torch_modules.register_module_forward_hook(self.leave, always_call=True),
        ]
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()
        super().__exit__(*error)

    def enter(self, module: nn.Module, args: tuple) -> None:
        self.running.append(self.names.get(module, self.running[-1]))

    def leave(self, module: nn.Module, args: tuple, out: object) -> None:
        name = self.running.pop()
        last = self.projections[-1] if self.projections else None
        if last is not None and last.layer == last.caller == name:
            same = isinstance(out, Tensor) and out.shape == last.leaf.shape
            last.called = same and torch.equal(out, last.leaf)

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs=None
    ) -> object:
        kwargs = kwargs or {}
        given = operands_of(args, kwargs)
        with torch.enable_grad():
            out = func(*args, **kwargs)
            if func is F.multi_head_attention_forward:
                self.fused_attention(*args[:8], kwargs.get('k_proj_weight'))
            elif func is F.scaled_dot_product_attention:
                by_name = dict(zip(('query', 'key', 'value'), args), **kwargs)
                self.attend(*map(by_name.get, ('query', 'key', 'value')))
            elif func in DENSE:
                return self.project(out, *given[:2])
            elif func in OF_LOGITS:
                return self.multiply(func, out, given)
            elif func in SOFTMAX and out.numel():
                uncertain = (out - out**2).argmax()  # neither 0 nor 1: it has a slope
                self.normalise(out.flatten()[uncertain], out)
        return out

    def project(self, out: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Cut a projection's output from the graph, and remember it."""
        layer, own = self.owners.get(id(weight), (None, ''))
        kernel, problem = weight.shape[2:], ''
        if kernel and x.shape[1] != weight.shape[1]:
            return out  # a convolution of groups is no dense projection
        if max(kernel, default=1) > 1:
            problem = f'makes its key by a {" x ".join(map(str, kernel))} convolution'
        elif layer is None or not is_plain(weight):
            problem = NOT_PLAIN
        leaf, dim = out.detach().requires_grad_(), 1 if kernel else -1
        caller = self.running[-1]
        found = Projection(layer, own, caller, x, leaf, dim, problem)
        self.projections.append(found)
        return leaf.clone()  # a leaf cannot be changed in place

    def multiply(self, func: Callable, out: Tensor, args: tuple) -> Tensor:
        """Remember a product; one with a matrix of weights is a projection."""
        letters, operands = ['...ik', '...kj', '...ij'], args[-2:]
        if func is torch.einsum:
            if not isinstance(args[0], str) or len(args) != 3 or '->' not in args[0]:
                return out
            letters = args[0].replace(' ', '').replace('->', ',').split(',')
        elif id(operands[1]) in self.owners and operands[1].dim() == 2:
            return self.project(out, operands[0], operands[1])
        for site, made, weights in self.softmaxes:
            value = [x for x in operands if not reaches(x, weights)]
            if len(value) == 1:
                self.check(site, made, 'value', value[0])
        if out.requires_grad:
            self.products.append((operands, out, letters))
        return out

    def normalise(self, one: Tensor, weights: Tensor) -> None:
        """A softmax: an attention if it is over the product of a query and a key.

        ``one`` of its weights, or of what these are made of, is computed from all that
        a softmax sums up.
        """
        products = [p for p in reversed(self.products) if reaches(one, p[1])]
        for operands, out, letters in products:
            summed = summed_axis(one, out, letters)
            second = summed in letters[1]
            query, key = operands if second else operands[::-1]
            other, mine = letters[:2] if second else letters[1::-1]
            common = [x for x in mine if x in other and x not in letters[2]]
            mixed = any(reaches(key, p[1]) for p in products)  # logits, say, of heads
            # a table of relative positions, say, is not made by a projection
            if summed and common and not mixed and self.makers(key):
                places = tuple(mine.index(x) - len(mine) for x in (summed, common[0]))
                made = self.attend(query, key.movedim(places, (-2, -1)))
                self.softmaxes.append((self.sites[-1], made, weights))
                return
        mixed = [p for p in self.projections if reaches(one, p.leaf)]
        if len(mixed) == 1 and mixed[0].x.numel() == weights.numel():
            # the logits of the heads were mixed, as in CaiT
            (grad,) = gradients(one, [mixed[0].leaf])
            tokens = (grad != 0).any(mixed[0].dim, keepdim=True)
            self.normalise((mixed[0].x * tokens).sum(), weights)
        elif products:
            problem = 'takes a softmax of a product in which no key was found'
            self.sites.append(Site(self.running[-1], problem))

    def makers(self, x: Tensor | None) -> list[tuple[Projection, Tensor]]:
        """Projections that reach ``x``, and those of their channels that do."""
        grads = gradients(x, [p.leaf for p in self.projections])
        found = [
            (p, p.by_channel(g))
            for p, g in zip(self.projections, grads)
            if g is not None
        ]
        return [(p, g.any(0).nonzero().flatten()) for p, g in found if g.any()]

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor | None = None
    ) -> Projection | None:
        """Note an attention with a key (..., tokens, channels of a head), and say which
        projection made it.
        """
        site, made = Site(self.running[-1]), self.makers(key)
        self.sites.append(site)
        if not made:
            site.problem = 'has a key that no layer of the model makes'
            return None
        projection, site.rows = made[0]
        site.problem, site.layer = projection.problem, projection.layer or ''
        site.called, site.weight = projection.called, projection.weight
        site.out_dims = projection.leaf.shape[projection.dim]
        site.in_shape = tuple(projection.x.movedim(projection.dim, -1).shape)
        site.heads = max(1, len(site.rows) // key.shape[-1])
        for name in self.running:  # the innermost module that holds the layer
            if name != site.layer and f'{site.layer}.'.startswith(f'{name}.'):
                site.attention = name
        token = key[..., key.shape[-2] // 2, :].reshape(-1, key.shape[-1])[0]
        (row,) = gradients(token, [projection.leaf])
        tokens, channels = (projection.by_channel(row).any(d).sum() for d in (1, 0))
        if len({(p.layer, *rows.tolist()) for p, rows in made}) > 1:
            names = ', '.join(str(p.layer) for p, _ in made)
            site.problem = f'makes its key by several layers ({names}): insert keys '
            site.problem += 'before adapters, or merge these'
        elif tokens > 1 and channels == 1:
            site.problem = site.problem or 'attends over channels, not over tokens'
        self.check(site, projection, 'query', query)
        self.check(site, projection, 'value', value)
        return projection

    def check(
        self, site: Site, made: Projection, name: str, other: Tensor | None
    ) -> None:
        """Note a problem if query or value are made of what makes the key, too."""
        for projection, rows in self.makers(other):
            same = projection.layer == site.layer and torch.isin(rows, site.rows).any()
            if same or reaches(projection.x, made.leaf):
                site.problem = site.problem or f'makes its key and its {name} in one'

    def fused_attention(self, *given: object) -> None:
        """``F.multi_head_attention_forward``, which projects by itself."""
        _, key, _, dims, heads, weight, _, bias_k, own_weight = given
        weight, name = own_weight if weight is None else weight, self.running[-1]
        shape, rows = tuple(key.transpose(0, -2).shape), torch.arange(dims)
        site = Site(name, '', name, True, shape, dims, rows, heads)
        if not isinstance(self.model.get_submodule(name), nn.MultiheadAttention):
            site.problem = 'calls the attention of torch.nn.functional by itself'
        elif bias_k is not None:
            site.problem = 'has a key besides those of the tokens (add_bias_kv=True)'
        elif self.owners.get(id(weight), (None,))[0] != name or not is_plain(weight):
            site.problem = NOT_PLAIN
        self.sites.append(site)


def find_sites(model: nn.Module, run: Callable[[], object]) -> list[Site]:
    """The attentions of a model that ``run`` runs, each once."""
    with torch.enable_grad(), Probe(model) as probe:
        run()
    found = {}
    for site in probe.sites:
        place = site.attention, site.layer
        if place in found and site.layer:  # some attend once for each head
            site.join(found[place])
        found[place] = site
    layers = [layer for _, layer in found]
    for site in found.values():
        if site.layer and layers.count(site.layer) > 1:
            site.problem = site.problem or 'shares the layer of its key with others'
    return list(found.values())
