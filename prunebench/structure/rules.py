"""What every operation does with the labels of its inputs: a table from operation to rule.

An operation that is not in the table freezes all that it takes, which is safe: nothing that it touches is removed.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.fx import Node

from prunebench.structure.walk import WINDOW, Dims, Value, Walk, bound, name_of, shape, shapes

Arguments = Mapping[str, Any]
Rule = Callable[[Walk, Node, Arguments], Value]

RULES: dict[str, Rule] = {}
"""By the bare name of the operation."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ELEMENTWISE = _names("""
    abs add add_ alias bitwise_and bitwise_not bitwise_or celu clamp clamp_ clamp_max clamp_min clone contiguous cos
    detach detach_ div div_ dropout dropout_ elu elu_ eq erf exp expm1 feature_dropout fill_ floor floor_divide ge gelu
    gelu_ gt hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ le leaky_relu leaky_relu_ lift_fresh_copy
    log log1p log_sigmoid logical_and logical_not logical_or lt masked_fill masked_fill_ maximum minimum mish mish_ mul
    mul_ ne neg pow reciprocal relu relu6 relu6_ relu_ remainder round rsqrt rsub selu selu_ sigmoid sigmoid_ sign silu
    silu_ sin softplus softsign sqrt square sub sub_ tanh tanh_ threshold threshold_ to to_copy _to_copy type_as where
    _maybe_cast native_dropout bernoulli_ nan_to_num
""")
"""Operations that treat every index by itself, with broadcasting."""

POOLS = _names("""
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d upsample_linear1d
    upsample_trilinear3d _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa lp_pool2d
""")
"""Operations that leave channels (the second dimension) alone and change the space behind them."""

REDUCTIONS = _names("amax amin any all logsumexp max min norm linalg_vector_norm prod std var var_mean std_mean")
"""Operations that mix what they reduce, so that a zero is not the same as nothing."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule under these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def apply(walk: Walk, node: Node) -> Value:
    """The labels of what an operation gives; an operation without a rule freezes what it takes."""
    name = name_of(node)
    found = RULES.get(name)
    if found is not None:
        try:
            return found(walk, node, bound(node))
        except (LookupError, ValueError):
            pass  # an unusual form of the operation: as if there were no rule
    if any(_has_labels(walk, operand) for operand in node.all_input_nodes):
        walk.unknown[name] = walk.unknown.get(name, 0) + 1
    walk.freeze_inputs(node, f"operation {name}")
    return walk.fresh(node, f"operation {name}")


def _has_labels(walk: Walk, node: Node) -> bool:
    return walk.dims.get(node) is not None


# ---------------------------------------------------------------- one by one


@rule(*ELEMENTWISE)
def elementwise(walk: Walk, node: Node, _: Arguments) -> Value:
    """Labels of all operands are united, index by index; sizes of 1 are broadcast."""
    sizes = shape(node)
    if sizes is None:
        return None
    out: list[list[int] | None] = [None] * len(sizes)
    summed: set[int] = set()
    branched: set[int] = set()
    for operand in node.all_input_nodes:
        value = walk.dims.get(operand)
        if not isinstance(value, list):
            continue
        shift = len(sizes) - len(value)
        for axis, labels in enumerate(value):
            place = axis + shift
            if len(labels) != sizes[place] or (len(labels) == 1 and out[place] is not None):
                continue
            known = out[place]
            if known is None:
                out[place] = list(labels)
            else:
                # a sum of what came from one place, as x + x³, is no stream
                if operand.op != "get_attr" and place in branched and not walk.labels.same(known, labels):
                    summed.add(place)
                walk.labels.unite_all(known, labels)
            if operand.op != "get_attr":
                branched.add(place)
    made = [walk.labels.new(k, "a constant") if o is None else o for o, k in zip(out, sizes, strict=True)]
    if name_of(node).startswith("add"):
        for place in summed:
            walk.labels.sum_up(made[place])
    return made


@rule("prelu")
def prelu(walk: Walk, node: Node, a: Arguments) -> Value:
    """A slope for every channel, or one for all."""
    dims, slopes = walk.of(a["self"]), walk.of(a["weight"])[0]
    if len(slopes) > 1:
        walk.labels.unite_all(dims[1], slopes)
    return dims


@rule("getitem")
def getitem(walk: Walk, node: Node, _: Arguments) -> Value:
    """One of several results."""
    value = walk.dims.get(node.args[0])  # type: ignore[arg-type]
    return value[node.args[1]] if isinstance(value, tuple) else value  # type: ignore[index]


@rule("_assert_tensor_metadata", "sym_size", "_assert_scalar", "sym_constrain_range_for_size")
def nothing(walk: Walk, node: Node, _: Arguments) -> Value:
    """No tensor comes of it."""
    return None


@rule("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")
def alike(walk: Walk, node: Node, a: Arguments) -> Value:
    """A constant as large as another tensor."""
    return [list(labels) for labels in walk.of(a["self"])]


# ---------------------------------------------------------------- products


@rule("linear")
def linear(walk: Walk, node: Node, a: Arguments) -> Value:
    """x W' + b: the last dimension is summed over."""
    x, weight = walk.of(a["input"]), walk.of(a["weight"])
    walk.labels.unite_all(x[-1], weight[1])
    _bias(walk, a["bias"], weight[0])
    walk.sum_over(node, a["input"], -1, a["weight"])
    walk.cost(node, 1.0, [*x, weight[0]])
    return [*x[:-1], weight[0]]


@rule("addmm", "baddbmm")
def addmm(walk: Walk, node: Node, a: Arguments) -> Value:
    """b + x y."""
    first = a["mat1"] if "mat1" in a else a["batch1"]
    second = a["mat2"] if "mat2" in a else a["batch2"]
    out = _multiplied(walk, node, first, second)
    bias = walk.of(a["self"])
    for labels, mine in zip(reversed(bias), reversed(out), strict=False):
        if len(labels) == len(mine):
            walk.labels.unite_all(mine, labels)
    return out


@rule("matmul", "bmm", "mm")
def matmul(walk: Walk, node: Node, a: Arguments) -> Value:
    """x y, with batch dimensions in front."""
    return _multiplied(walk, node, a["self"], a["other"] if "other" in a else a["mat2"])


def _multiplied(walk: Walk, node: Node, first: Node, second: Node) -> Dims:
    x, y = walk.of(first), walk.of(second)
    if len(x) < 2 or len(y) < 2:
        raise LookupError("a product with a vector")
    walk.labels.unite_all(x[-1], y[-2])
    batch: list[list[int]] = []
    long, short = (x[:-2], y[:-2]) if len(x) >= len(y) else (y[:-2], x[:-2])
    for place, labels in enumerate(long):
        k = place - (len(long) - len(short))
        if k >= 0 and len(short[k]) == len(labels):
            walk.labels.unite_all(labels, short[k])
        batch.append(short[k] if k >= 0 and len(labels) == 1 else labels)
    operand, dim = (first, -1) if first.op != "get_attr" else (second, -2)
    walk.sum_over(node, operand, dim, second if operand is first else first)
    walk.cost(node, 1.0, [*batch, x[-2], x[-1], y[-1]])
    return [*batch, x[-2], y[-1]]


@rule("einsum")
def einsum(walk: Walk, node: Node, a: Arguments) -> Value:
    """Letters of the equation are labels; those that are not in the result are summed over."""
    left, _, right = a["equation"].replace(" ", "").partition("->")
    parts = left.split(",")
    if "." in left or not right or len(parts) != len(a["tensors"]) or any(len(set(p)) != len(p) for p in parts):
        raise LookupError("an equation with repeats or dots")
    known: dict[str, list[int]] = {}
    for letters, operand in zip(parts, a["tensors"], strict=True):
        for letter, labels in zip(letters, walk.of(operand), strict=True):
            if letter in known and len(known[letter]) == len(labels):
                walk.labels.unite_all(known[letter], labels)
            elif letter not in known or len(known[letter]) == 1:
                known[letter] = labels
    activations = [(p, o) for p, o in zip(parts, a["tensors"], strict=True) if o.op != "get_attr"]
    for letter in known:
        if letter not in right:
            place = next(((p, o) for p, o in activations if letter in p), None)
            if place is None:
                walk.labels.freeze(known[letter], "a sum over parameters alone")
            else:
                walk.sum_over(node, place[1], place[0].index(letter))
    walk.cost(node, 1.0, list(known.values()))
    return [known[letter] for letter in right]


@rule("conv1d", "conv2d", "conv3d")
def convolution(walk: Walk, node: Node, a: Arguments) -> Value:
    """Channels are summed over within each of the groups."""
    x, weight = walk.of(a["input"]), walk.of(a["weight"])
    _kernel(walk, weight)
    _bias(walk, a["bias"], weight[0])
    _grouped(walk, x[-len(weight) + 1], weight[1], weight[0], a["groups"])
    if len(weight[1]) > 1 or a["groups"] == 1:
        walk.sum_over(node, a["input"], 1 - len(weight), a["weight"])
    return _convolved(walk, node, x, weight[0], weight)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed(walk: Walk, node: Node, a: Arguments) -> Value:
    """As a convolution, the weight's first dimension being that of the input."""
    x, weight = walk.of(a["input"]), walk.of(a["weight"])
    _kernel(walk, weight)
    groups = a["groups"]
    if groups == 1:
        walk.labels.unite_all(x[1], weight[0])
        out = weight[1]
    else:
        out = walk.labels.new(groups * len(weight[1]))
        _grouped(walk, out, weight[1], weight[0], groups)
        walk.labels.unite_all(x[1], weight[0])
    _bias(walk, a["bias"], out)
    walk.sum_over(node, a["input"], 1, a["weight"])
    return _convolved(walk, node, x, out, weight, turned=True)


def _convolved(walk: Walk, node: Node, x: Dims, out: list[int], weight: Dims, *, turned: bool = False) -> Dims:
    """What a convolution gives; a transposed one multiplies at every place that comes in, others at every one out."""
    sizes = shape(node)
    assert sizes is not None
    inner = len(weight) - 2
    space = [walk.labels.new(k, "space") for k in sizes[len(sizes) - inner :]]
    window = float(math.prod(len(labels) for labels in weight[2:]))
    walk.cost(node, window, [weight[0], weight[1], *(x[-inner:] if turned else space)])
    return [*x[: -inner - 1], out, *space]


def _grouped(walk: Walk, inner: list[int], part: list[int], outer: list[int], groups: int) -> None:
    """Unite the channels of a convolution: `inner` come in (all), `part` of them in each group, `outer` go out."""
    labels = walk.labels
    if groups == 1:
        labels.unite_all(inner, part)
        return
    number = labels.new(groups)
    own = labels.new(len(outer) // groups)
    for k, label in enumerate(inner):
        group, rest = divmod(k, len(part))
        labels.unite(label, labels.product(number[group], part[rest]) if len(part) > 1 else number[group])
    for k, label in enumerate(outer):
        group, rest = divmod(k, len(own))
        labels.unite(label, labels.product(number[group], own[rest]) if len(own) > 1 else number[group])


def _kernel(walk: Walk, weight: Dims) -> None:
    for labels in weight[2:]:
        walk.labels.freeze(labels, WINDOW)


def _bias(walk: Walk, bias: Any, labels: list[int]) -> None:
    if isinstance(bias, Node):
        walk.labels.unite_all(labels, walk.of(bias)[0])


@rule("scaled_dot_product_attention")
def attention(walk: Walk, node: Node, a: Arguments) -> Value:
    """softmax(q k' + mask) v: heads go together, and so do the dimensions that q and k are compared in."""
    q, k, v, labels = walk.of(a["query"]), walk.of(a["key"]), walk.of(a["value"]), walk.labels
    for place in range(len(q) - 2):
        if len(q[place]) == len(k[place]):
            labels.unite_all(q[place], k[place])
        else:
            repeats = len(q[place]) // len(k[place])
            number = labels.new(repeats)
            for j, label in enumerate(q[place]):
                labels.unite(label, labels.product(k[place][j // repeats], number[j % repeats]))
        labels.unite_all(k[place], v[place])
    labels.unite_all(q[-1], k[-1])
    labels.unite_all(k[-2], v[-2])
    labels.freeze(k[-2], "a softmax over it")
    if isinstance(a["attn_mask"], Node):
        mask = walk.of(a["attn_mask"])
        for mine, its in zip(reversed(mask[:-2]), reversed(q[:-2]), strict=False):
            if len(mine) == len(its):
                labels.unite_all(mine, its)
    walk.sum_over(node, a["query"], -1)
    walk.cost(node, 1.0, [*q[:-1], k[-2], q[-1]])
    walk.cost(node, 1.0, [*q[:-1], k[-2], v[-1]])
    return [*q[:-1], v[-1]]


# ---------------------------------------------------------------- norms and reductions


@rule("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training", "native_batch_norm")
def channel_norm(walk: Walk, node: Node, a: Arguments) -> Value:
    """Every channel is scaled by itself."""
    x = walk.of(a["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(a.get(name), Node):
            walk.labels.unite_all(x[1], walk.of(a[name])[0])
    if isinstance(node.meta.get("val"), tuple | list):
        return (x, *(None for _ in shapes(node)[1:]))
    return x


@rule("layer_norm", "rms_norm")
def layer_norm(walk: Walk, node: Node, a: Arguments) -> Value:
    """What is normalised together is mixed."""
    x = walk.of(a["input"])
    normalised = x[-len(a["normalized_shape"]) :]
    for name in ("weight", "bias"):
        if isinstance(a.get(name), Node):
            for labels, mine in zip(normalised, walk.of(a[name]), strict=True):
                walk.labels.unite_all(labels, mine)
    for labels in normalised:
        walk.labels.cross(labels, name_of(node))
    return x


@rule("group_norm")
def group_norm(walk: Walk, node: Node, a: Arguments) -> Value:
    """Whole groups of channels can go; the channels of one are mixed."""
    x, groups = walk.of(a["input"]), a["num_groups"]
    for name in ("weight", "bias"):
        if isinstance(a.get(name), Node):
            walk.labels.unite_all(x[1], walk.of(a[name])[0])
    if groups > 1 and len(x[1]) > groups:
        number, own = walk.labels.new(groups), walk.labels.new(len(x[1]) // groups)
        for k, label in enumerate(x[1]):
            walk.labels.divide(label, (number[k // len(own)], own[k % len(own)]))
        walk.labels.cross(own, "group_norm")
    elif groups == 1:
        walk.labels.cross(x[1], "group_norm")
    return x


@rule("mean", "sum", *REDUCTIONS)
def reduction(walk: Walk, node: Node, a: Arguments) -> Value:
    """A sum takes a zero for nothing; anything else mixes."""
    x, name = walk.of(a["self"]), name_of(node)
    dims = a.get("dim")
    chosen = set(range(len(x))) if dims in (None, []) else {k % len(x) for k in _listed(dims)}
    for k in chosen:
        if name == "sum":
            walk.sum_over(node, a["self"], k)
        else:
            walk.labels.cross(x[k], name)
    out = [
        walk.labels.new(1, name) if k in chosen else labels
        for k, labels in enumerate(x)
        if a.get("keepdim") or k not in chosen
    ]
    many = len(shapes(node)) if isinstance(node.meta.get("val"), tuple | list) else 0
    return tuple([list(out) for _ in range(many)]) if many else out


@rule("softmax", "_softmax", "log_softmax", "cumsum", "cumprod", "sort", "topk", "argmax", "argmin", "argsort")
def mixed(walk: Walk, node: Node, a: Arguments) -> Value:
    """All of a dimension goes into every result of it."""
    x = walk.of(a["self"])
    if a.get("dim") is None:
        raise LookupError("over all dimensions")
    walk.labels.freeze(x[a["dim"]], f"a {name_of(node)} over it")
    if name_of(node) in ("softmax", "_softmax", "log_softmax", "cumsum", "cumprod"):
        return x
    walk.freeze_inputs(node, f"operation {name_of(node)}")
    return walk.fresh(node, f"operation {name_of(node)}")


# ---------------------------------------------------------------- shapes


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
def reshaped(walk: Walk, node: Node, a: Arguments) -> Value:
    """Split dimensions make their labels products, merged ones are products of theirs."""
    after = shape(node)
    assert after is not None
    return _reshape(walk, walk.of(a["self"]), after)


def _reshape(walk: Walk, dims: Dims, after: Sequence[int]) -> Dims:
    out: Dims = []
    before = [len(labels) for labels in dims]
    i = j = 0
    while i < len(before) or j < len(after):
        first, last = i + 1, j + 1
        size, new = (before[i] if i < len(before) else 1), (after[j] if j < len(after) else 1)
        while size != new:
            if size < new:
                size, first = size * before[first], first + 1
            else:
                new, last = new * after[last], last + 1
        out += _regrouped(walk, dims[i:first], list(after[j:last]))
        i, j = first, last
    return out


def _regrouped(walk: Walk, old: Dims, sizes: list[int]) -> Dims:
    """Labels of dimensions whose sizes multiply to what those of the old ones do."""
    labels = walk.labels
    source = [dim for dim in old if len(dim) > 1]
    large = [size for size in sizes if size > 1]
    ones = [dim for dim in old if len(dim) == 1]
    if [len(dim) for dim in source] == large:
        made = source
    elif len(large) == 1:
        combined: list[tuple[int, ...]] = [()]
        for dim in source:
            combined = [(*head, label) for head in combined for label in dim]
        made = [[labels.product(*factors) for factors in combined]]
    elif len(source) == 1:
        made = [labels.new(size) for size in large]
        for k, label in enumerate(source[0]):
            factors, rest = [], k
            for dim in reversed(made):
                rest, place = divmod(rest, len(dim))
                factors.append(dim[place])
            labels.divide(label, factors[::-1])
    else:
        for dim in source:
            labels.freeze(dim, "a dimension that is divided and joined at once")
        made = [labels.new(size, "a dimension that is divided and joined at once") for size in large]
    rest_made, rest_ones = iter(made), iter(ones)
    return [next(rest_made) if size > 1 else next(rest_ones, labels.new(1)) for size in sizes]


@rule("permute")
def permute(walk: Walk, node: Node, a: Arguments) -> Value:
    """Dimensions in another order."""
    x = walk.of(a["self"])
    return [x[k] for k in a["dims"]]


@rule("transpose", "swapaxes", "swapdims")
def transpose(walk: Walk, node: Node, a: Arguments) -> Value:
    """Two dimensions change places."""
    x = list(walk.of(a["self"]))
    one, other = (a[name] for name in list(a)[1:3])
    x[one], x[other] = x[other], x[one]
    return x


@rule("t", "numpy_T", "mT", "adjoint")
def turned(walk: Walk, node: Node, a: Arguments) -> Value:
    """The last two dimensions change places, or all of them."""
    x = list(walk.of(a["self"]))
    return x[::-1] if name_of(node) in ("t", "numpy_T") else [*x[:-2], x[-1], x[-2]]


@rule("movedim")
def movedim(walk: Walk, node: Node, a: Arguments) -> Value:
    """Some dimensions go elsewhere."""
    x = walk.of(a["self"])
    source = [k % len(x) for k in _listed(a["source"])]
    goal = [k % len(x) for k in _listed(a["destination"])]
    order: list[int | None] = [None] * len(x)
    for one, other in zip(source, goal, strict=True):
        order[other] = one
    rest = iter(k for k in range(len(x)) if k not in source)
    return [x[next(rest) if k is None else k] for k in order]


@rule("unsqueeze")
def unsqueeze(walk: Walk, node: Node, a: Arguments) -> Value:
    """One more dimension of size 1."""
    x = list(walk.of(a["self"]))
    x.insert(a["dim"] % (len(x) + 1), walk.labels.new(1))
    return x


@rule("squeeze")
def squeeze(walk: Walk, node: Node, a: Arguments) -> Value:
    """Dimensions of size 1 go."""
    x = walk.of(a["self"])
    dims = a.get("dim")
    chosen = set(range(len(x))) if dims is None else {k % len(x) for k in _listed(dims)}
    return [labels for k, labels in enumerate(x) if not (k in chosen and len(labels) == 1)]


@rule("expand", "expand_as", "broadcast_to")
def expand(walk: Walk, node: Node, a: Arguments) -> Value:
    """Sizes of 1 are repeated: new labels, which are free to go."""
    x, sizes = walk.of(a["self"]), shape(node)
    assert sizes is not None
    shift = len(sizes) - len(x)
    return [
        x[k - shift] if k >= shift and len(x[k - shift]) == size else walk.labels.new(size)
        for k, size in enumerate(sizes)
    ]


@rule("repeat")
def repeat(walk: Walk, node: Node, a: Arguments) -> Value:
    """Whole dimensions are repeated: the same labels again."""
    x = walk.of(a["self"])
    sizes = shape(node)
    assert sizes is not None
    shift = len(sizes) - len(x)
    out = []
    for k, size in enumerate(sizes):
        labels = x[k - shift] if k >= shift else walk.labels.new(1)
        out.append(labels if len(labels) == size else [*labels] * (size // len(labels)))
    return out


@rule("repeat_interleave")
def repeat_interleave(walk: Walk, node: Node, a: Arguments) -> Value:
    """Every index is repeated."""
    x, times = list(walk.of(a["self"])), a["repeats"]
    if not isinstance(times, int) or a.get("dim") is None:
        raise LookupError("repeats of other numbers")
    number = walk.labels.new(times)
    dim = a["dim"]
    x[dim] = [walk.labels.product(label, copy) for label in x[dim] for copy in number]
    return x


@rule("unbind")
def unbind(walk: Walk, node: Node, a: Arguments) -> Value:
    """A dimension falls apart into its indices, all of which must stay."""
    x = walk.of(a["self"])
    dim = a["dim"] % len(x)
    walk.labels.freeze(x[dim], "an unbind of it")
    rest = [labels for k, labels in enumerate(x) if k != dim]
    return tuple(list(rest) for _ in x[dim])


@rule("select")
def select(walk: Walk, node: Node, a: Arguments) -> Value:
    """One index of a dimension is taken; its number must stay what it is."""
    x = walk.of(a["self"])
    dim = a["dim"] % len(x)
    walk.labels.freeze(x[dim], "a choice of one index of it")
    return [labels for k, labels in enumerate(x) if k != dim]


@rule("slice", "narrow")
def sliced(walk: Walk, node: Node, a: Arguments) -> Value:
    """A part of a dimension."""
    x = list(walk.of(a["self"]))
    dim, sizes = a["dim"] % len(x), shape(node)
    assert sizes is not None
    start = a["start"]
    if sizes[dim] == len(x[dim]):
        return x
    if not isinstance(start, int | None):
        raise LookupError("a start that is computed")
    begin, step = (start or 0), a.get("step", 1)
    begin = begin + len(x[dim]) if begin < 0 else begin
    x[dim] = x[dim][begin::step][: sizes[dim]]
    if step != 1:
        walk.labels.freeze(walk.of(a["self"])[dim], "a slice with steps")
    return x


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
def split(walk: Walk, node: Node, a: Arguments) -> Value:
    """A dimension falls into parts."""
    x = walk.of(a["self"])
    dim, start, out = a["dim"] % len(x), 0, []
    for sizes in shapes(node):
        assert sizes is not None
        part = list(x)
        part[dim] = x[dim][start : start + sizes[dim]]
        start += sizes[dim]
        out.append(part)
    return tuple(out)


@rule("cat", "concat")
def cat(walk: Walk, node: Node, a: Arguments) -> Value:
    """Tensors one after the other along a dimension."""
    parts = [walk.of(part) for part in a["tensors"]]
    sizes = shape(node)
    assert sizes is not None
    dim = a["dim"] % len(sizes)
    parts = [part for part in parts if len(part) == len(sizes)]
    out = [list(labels) for labels in parts[0]]
    for part in parts[1:]:
        for k, labels in enumerate(part):
            if k == dim:
                out[k] = [*out[k], *labels]
            else:
                walk.labels.unite_all(out[k], labels)
    return out


@rule("stack")
def stack(walk: Walk, node: Node, a: Arguments) -> Value:
    """Tensors as the indices of a new dimension."""
    parts = [walk.of(part) for part in a["tensors"]]
    out = [list(labels) for labels in parts[0]]
    for part in parts[1:]:
        for mine, its in zip(out, part, strict=True):
            walk.labels.unite_all(mine, its)
    out.insert(a["dim"] % (len(out) + 1), walk.labels.new(len(parts), "a stack of tensors"))
    return out


@rule("pad", "constant_pad_nd")
def pad(walk: Walk, node: Node, a: Arguments) -> Value:
    """Constant padding has labels of its own, which are free to go; other padding is of space alone."""
    x, widths = list(walk.of(a["self"])), list(a["pad"])
    if any(not isinstance(width, int) for width in widths):
        raise LookupError("widths that are computed")
    zero = a.get("mode", "constant") == "constant" and not a.get("value")
    for k in range(len(widths) // 2):
        before, after, dim = widths[2 * k], widths[2 * k + 1], len(x) - 1 - k
        if before == after == 0:
            continue
        if min(before, after) < 0:
            raise LookupError("a crop")
        if not zero:
            walk.labels.freeze(x[dim], "a padding that is not zero")
        x[dim] = [*walk.labels.new(before), *x[dim], *walk.labels.new(after)]
        if not zero:
            walk.labels.freeze(x[dim], "a padding that is not zero")
    return x


@rule("roi_align")
def boxes(walk: Walk, node: Node, a: Arguments) -> Value:
    """Channels of boxes cut out of images: a box is a sample, channels stay, space changes."""
    x, rois, sizes = walk.of(a["input"]), walk.of(a["rois"]), shape(node)
    assert sizes is not None
    return [rois[0], x[1], *(walk.labels.new(k, "space") for k in sizes[2:])]


@rule("index")
def indexed(walk: Walk, node: Node, a: Arguments) -> Value:
    """Tensors of numbers choose from some dimensions, which must stay; the others are passed on.

    What chooses comes in place of the first dimension that is chosen from, where those are neighbours.
    """
    x, sizes = walk.of(a["self"]), shape(node)
    assert sizes is not None
    chosen = [k for k, item in enumerate(a["indices"]) if item is not None]
    if chosen != list(range(chosen[0], chosen[-1] + 1)):
        raise LookupError("a choice from dimensions that are no neighbours")
    for k in chosen:
        walk.labels.freeze(x[k], "numbers that choose from it")
        for labels in walk.of(a["indices"][k]):
            walk.labels.freeze(labels, "numbers that choose from it")
    made = len(sizes) - (len(x) - len(chosen))
    places = [walk.labels.new(k, "numbers that choose from it") for k in sizes[chosen[0] : chosen[0] + made]]
    return [*x[: chosen[0]], *places, *x[chosen[-1] + 1 :]]


@rule("new_zeros", "new_ones", "new_full", "new_empty")
def constants(walk: Walk, node: Node, _: Arguments) -> Value:
    """A constant of a size of its own: only kind and place of numbers are another tensor's."""
    return walk.fresh(node, "a constant")


@rule("embedding")
def embedding(walk: Walk, node: Node, a: Arguments) -> Value:
    """Rows of a table by number: the numbers must stay what they are."""
    weight = walk.of(a["weight"])
    walk.labels.freeze(weight[0], "numbers that choose a row")
    return [*walk.of(a["indices"]), weight[1]]


@rule("roll", "flip")
def moved(walk: Walk, node: Node, a: Arguments) -> Value:
    """Indices change places: the dimension must stay as it is."""
    x = list(walk.of(a["self"]))
    for k in _listed(a["dims"]):
        walk.labels.freeze(x[k], f"a {name_of(node)} of it")
    return x


@rule("glu")
def glu(walk: Walk, node: Node, a: Arguments) -> Value:
    """One half of a dimension gates the other."""
    x = list(walk.of(a["self"]))
    half = len(x[a["dim"]]) // 2
    walk.labels.unite_all(x[a["dim"]][:half], x[a["dim"]][half:])
    x[a["dim"]] = x[a["dim"]][:half]
    return x


@rule("pixel_shuffle")
def pixel_shuffle(walk: Walk, node: Node, a: Arguments) -> Value:
    """Channels become space: every channel that goes out is r² that come in."""
    x, sizes = walk.of(a["self"]), shape(node)
    assert sizes is not None
    factor = a["upscale_factor"] ** 2
    out, place = walk.labels.new(sizes[-3]), walk.labels.new(factor, "space")
    for k, label in enumerate(x[-3]):
        walk.labels.divide(label, (out[k // factor], place[k % factor]))
    return [*x[:-3], out, *(walk.labels.new(size, "space") for size in sizes[-2:])]


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(walk: Walk, node: Node, a: Arguments) -> Value:
    """Channels of several groups in turn."""
    x, groups = list(walk.of(a["self"])), a["groups"]
    own = len(x[1]) // groups
    number, inner = walk.labels.new(groups), walk.labels.new(own)
    for k, label in enumerate(x[1]):
        walk.labels.divide(label, (number[k // own], inner[k % own]))
    x[1] = [x[1][group * own + k] for k in range(own) for group in range(groups)]
    return x


@rule(*POOLS)
def pooled(walk: Walk, node: Node, a: Arguments) -> Value:
    """Channels stay, space changes."""
    x = walk.of(a["self"] if "self" in a else a["input"])
    outs = []
    for sizes in shapes(node):
        assert sizes is not None
        keep = len(sizes) - _space_of(name_of(node))
        outs.append([*x[:keep], *(walk.labels.new(k, "space") for k in sizes[keep:])])
    return tuple(outs) if isinstance(node.meta.get("val"), tuple | list) else outs[0]


def _space_of(name: str) -> int:
    return next((k for k in (1, 2, 3) if f"{k}d" in name), 2)


def _listed(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


SCALARS = {operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg, operator.truediv}
"""Arithmetic of sizes, which has no labels."""
