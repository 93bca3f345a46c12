"""Attentions of a few lines, for what no library's model shows alone."""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Attention over tokens (B, N, 8) with two heads; subclasses say how.

    Args:
        out_dims (int): Channels of the fused projection.
    """

    def __init__(self, out_dims=24):
        super().__init__()
        self.qkv = nn.Linear(8, out_dims)
        self.proj = nn.Linear(8, 8)

    def forward(self, x):
        return self.proj(self.attend(*self.project(x)).transpose(1, 2).flatten(2))

    def project(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


class Named(Attention):
    """By keywords, in another order."""

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(key=k, query=q, value=v)


class NamedLast(Attention):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, value=v, key=k)


class NamedInput(Attention):
    """Its layer is called by keyword."""

    def project(self, x):
        q, k, v = self.qkv(input=x).chunk(3, -1)
        return (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))


class AddedProduct(Attention):
    """Scaled and shifted in one with the product, as diffusers does it."""

    def attend(self, q, k, v):
        whole, bias = q.shape, q.new_zeros(1)
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))
        logits = torch.baddbmm(bias, q, k.transpose(1, 2), beta=1.0, alpha=0.5)
        return (logits.softmax(-1) @ v).view(whole)


class Softmax(Attention):
    def attend(self, q, k, v):
        return torch.softmax(q @ k.transpose(-2, -1) / 2, -1) @ v


class Transposed(Attention):
    """The logits' rows are keys."""

    def attend(self, q, k, v):
        return (k @ q.transpose(-2, -1)).softmax(dim=-2).transpose(-2, -1) @ v


class Einsum(Attention):
    def attend(self, q, k, v):
        weights = torch.einsum('bhid,bhjd->bhij', q, k).softmax(-1)
        return torch.einsum('bhij,bhjd->bhid', weights, v)


class EinsumOfKeysFirst(Attention):
    def attend(self, q, k, v):
        weights = F.softmax(torch.einsum('bhjd,bhid->bhij', k, q), dim=3)
        return weights.matmul(v)


class LogitsTransposed(Attention):
    """The logits' rows are keys, and are made columns before the softmax."""

    def attend(self, q, k, v):
        logits = (k @ q.transpose(-2, -1)).transpose(-2, -1)
        return logits.softmax(-1) @ v


class HeadsLast(Attention):
    """The heads of the logits are made the last axis before the softmax."""

    def attend(self, q, k, v):
        logits = (q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)
        return logits.softmax(2).permute(0, 3, 1, 2) @ v


class TalkingHeads(Attention):
    """Its heads' logits are mixed, as lucidrains' CaiT does it."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.randn(2, 2))

    def attend(self, q, k, v):
        logits = torch.einsum('bhid,bhjd->bhij', q, k)
        logits = torch.einsum('bhij,hg->bgij', logits, self.mix)
        return logits.softmax(-1) @ v


class MixedHeadsLast(HeadsLast):
    """Its heads' logits are mixed by a layer."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(2, 2)

    def attend(self, q, k, v):
        logits = self.mix((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1))
        return logits.softmax(2).permute(0, 3, 1, 2) @ v


class NamedProduct(Attention):
    """By keywords, in another order."""

    def attend(self, q, k, v):
        logits = torch.matmul(other=k.transpose(-2, -1), input=q)
        return torch.softmax(dim=-1, input=logits) @ v


class OneHead(Attention):
    """Products of matrices, for each sequence and head."""

    def attend(self, q, k, v):
        one = [
            torch.special.softmax(torch.mm(a, b.t()), 1).mm(c)
            for a, b, c in zip(*(t.flatten(0, 1) for t in (q, k, v)))
        ]
        return torch.stack(one).view_as(q)


class Twice(Attention):
    """Its layer makes the keys of some tokens and of all."""

    def project(self, x):
        q, k, v = super().project(x)
        _, more, values = super().project(x[:, :2])
        return q, torch.cat([k, more], 2), torch.cat([v, values], 2)


class HeadsOutermost(Attention):
    def project(self, x):
        qkv = self.qkv(x).unflatten(-1, (2, 12)).transpose(1, 2)
        return qkv.chunk(3, -1)


class KeyLast(Attention):
    def project(self, x):
        q, v, k = super().project(x)
        return q, k, v


class Matrix(Attention):
    """A matrix of weights instead of a layer."""

    def __init__(self):
        super().__init__()
        self.kernel = Kernel()

    def project(self, x):
        q, _, v = super().project(x)
        return q, self.kernel(x).unflatten(-1, (2, 4)).transpose(1, 2), v


class Kernel(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, x):
        return x @ self.weight


class Read(Attention):
    def project(self, x):
        qkv = F.linear(input=x, weight=self.qkv.weight, bias=self.qkv.bias)
        return (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in qkv.chunk(3, -1))


class ReadConvolution(Attention):
    """As ``Read``, with a convolution of kernel size 1."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Conv1d(8, 24, 1)

    def project(self, x):
        qkv = F.conv1d(x.transpose(1, 2), self.qkv.weight, self.qkv.bias)
        qkv = qkv.transpose(1, 2).chunk(3, -1)
        return (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in qkv)


class ReadMatrix(Matrix):
    def project(self, x):
        q, _, v = Attention.project(self, x)
        return q, (x @ self.kernel.weight).unflatten(-1, (2, 4)).transpose(1, 2), v


class OwnMatrix(Attention):
    """Its key is made by a weight of its own."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 8) / 3)

    def project(self, x):
        q, _, v = super().project(x)
        return q, (x @ self.kernel).unflatten(-1, (2, 4)).transpose(1, 2), v


class OwnMatrices(OwnMatrix):
    """As ``OwnMatrix``, with another one behind the attention."""

    def __init__(self):
        super().__init__()
        self.last = nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, x):
        return super().forward(x) @ self.last


class SharedKeyAndQuery(Attention):
    def project(self, x):
        q, _, v = super().project(x)
        return q, q, v


class SharedKeyAndValue(Softmax):
    def project(self, x):
        q, k, _ = super().project(x)
        return q, k, k


class NotProjected(nn.Module):
    """Its key is the layer before it, which makes query and value, too."""

    def __init__(self):
        super().__init__()
        self.stem, self.q, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        return F.scaled_dot_product_attention(self.q(x), x, self.v(x))


class OverHeads(Attention):
    def attend(self, q, k, v):
        return (q @ k.transpose(-2, -1)).softmax(1) @ v


class OverChannels(Attention):
    def attend(self, q, k, v):
        return v @ (k.transpose(-2, -1) @ q).softmax(dim=-2)


class LearnedKey(Attention):
    def __init__(self):
        super().__init__()
        self.learned = nn.Parameter(torch.randn(1, 2, 5, 4))

    def project(self, x):
        q, _, v = super().project(x)
        return q, self.learned, v[:, :, :5]


class Convolved(Attention):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Conv1d(8, 8, 3, padding=1)

    def project(self, x):
        q, _, v = super().project(x)
        k = self.kernel(x.transpose(1, 2)).transpose(1, 2)
        return q, k.unflatten(-1, (2, 4)).transpose(1, 2), v


class Sum(Attention):
    """As an adapter that is there already."""

    def __init__(self):
        super().__init__()
        self.adapter = nn.Linear(8, 24)

    def project(self, x):
        qkv = self.qkv(x) + self.adapter(x)
        return (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in qkv.chunk(3, -1))


class Unused(Attention):
    """Its values are equal, so the attention's weights change nothing."""

    def project(self, x):
        q, k, v = super().project(x)
        return q, k, v.mean(2, keepdim=True).expand_as(v)


class Shared(nn.Module):
    """Two attentions, whose key one layer makes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Attention(), Attention()
        self.second.qkv = self.first.qkv

    def forward(self, x):
        return self.second(self.first(x))


class Stack(nn.Sequential):
    """Attentions of a kind, one after the other."""

    def __init__(self, kind=Attention, depth=2):
        super().__init__(*(kind() for _ in range(depth)))


class Branch(nn.Module):
    """Attends when it is called for the first time."""

    def __init__(self):
        super().__init__()
        self.attention = Attention()

    def forward(self, x):
        self.calls = getattr(self, 'calls', 0) + 1
        return self.attention(x) if self.calls == 1 else x
