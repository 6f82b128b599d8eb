"""The tensor operators that a classifier's graph may use: pure arithmetic, nothing that touches files or randomness."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from stylegan2_msp.errors import UserError

# Names in torch.ops.aten, any overload of each except those that write into an `out` argument.
_ATEN_NAMES = """
    conv1d conv2d conv3d convolution _convolution conv_transpose2d linear matmul mm bmm addmm baddbmm einsum outer dot
    batch_norm _native_batch_norm_legit_no_training native_batch_norm instance_norm group_norm native_group_norm
    layer_norm native_layer_norm rms_norm linalg_vector_norm norm cosine_similarity _weight_norm mv vdot
    relu relu_ relu6 relu6_ leaky_relu leaky_relu_ prelu elu elu_ selu selu_ celu celu_ gelu silu silu_ mish mish_
    sigmoid sigmoid_ tanh tanh_ softplus hardtanh hardtanh_ hardswish hardswish_ hardsigmoid hardsigmoid_
    log_sigmoid threshold threshold_ glu softmax _softmax log_softmax _log_softmax logsumexp
    max_pool2d max_pool2d_with_indices max_pool1d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_max_pool2d _adaptive_avg_pool2d avg_pool3d
    dropout dropout_ feature_dropout alpha_dropout
    add add_ sub sub_ rsub mul mul_ div div_ true_divide floor_divide remainder neg abs abs_ sign sqrt sqrt_ rsqrt
    square pow pow_ exp exp_ expm1 log log2 log10 log1p sin cos erf reciprocal maximum minimum clamp clamp_ clamp_min
    clamp_min_ clamp_max clamp_max_ floor ceil round trunc lerp addcmul addcdiv where masked_fill masked_fill_ tril triu
    eq ne lt le gt ge logical_and logical_or logical_not bitwise_not bitwise_and bitwise_or isnan nan_to_num
    sum mean var std var_mean amax amin max min prod cumsum argmax argmin any all topk sort
    view _unsafe_view reshape view_as flatten unflatten squeeze squeeze_ unsqueeze unsqueeze_ permute
    transpose transpose_ t numpy_T mT swapaxes movedim
    expand expand_as repeat repeat_interleave broadcast_to contiguous clone alias detach
    detach_ lift_fresh_copy lift_fresh chunk split split_with_sizes unbind select slice narrow index index_select gather
    cat concat concatenate stack flip roll pad constant_pad_nd reflection_pad2d replication_pad2d tile
    upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    _upsample_nearest_exact2d pixel_shuffle pixel_unshuffle channel_shuffle im2col unfold
    to _to_copy type_as scalar_tensor full full_like zeros zeros_like ones ones_like new_zeros new_ones new_full arange
    linspace fill zero_ fill_ copy copy_ embedding one_hot
    scaled_dot_product_attention
    sym_size sym_numel sym_stride sym_storage_offset
"""
ATEN = frozenset(_ATEN_NAMES.split())

# Arithmetic on sizes (plain integers when the graph is replayed).
SIZES: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "truediv")
}

# Checks that were noted while tracing and compute nothing.
IGNORED = frozenset(
    {
        "aten._assert_scalar",
        "aten._assert_async",
        "aten._assert_tensor_metadata",
        "aten.sym_constrain_range",
        "aten.sym_constrain_range_for_size",
    }
)


def find_operator(name: str, source: str) -> Callable[..., Any]:
    """The function behind 'aten.<name>.<overload>' or 'size.<name>'.

    Raises:
        UserError: it is not one of the operators above.
    """
    family, _, rest = name.partition(".")
    if family == "size" and rest in SIZES:
        return SIZES[rest]
    base, _, overload = rest.partition(".")
    if family != "aten" or base not in ATEN or "out" in overload.split("_"):
        raise UserError(
            f"{source}: its graph uses the operator {name!r}, which is not one of those allowed; "
            "torch.export.export(...).run_decompositions() may put others in its place"
        )
    packet = getattr(torch.ops.aten, base, None)
    if packet is None or overload not in packet.overloads():
        raise UserError(f"{source}: its graph uses {name!r}, which this PyTorch ({torch.__version__}) does not have")
    return getattr(packet, overload)
