"""Names of PyTorch operations, grouped by their effect on channels."""

from __future__ import annotations

MOVES = frozenset(
    {
        *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel"),
        *("transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis", "t", "adjoint", "__get__"),
        *("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "chunk", "split", "tensor_split"),
        *("split_with_sizes", "unbind", "select", "narrow", "index_select", "__getitem__", "expand", "expand_as"),
        *("broadcast_to", "repeat", "repeat_interleave", "tile", "roll", "flip", "pixel_shuffle", "pixel_unshuffle"),
        *("channel_shuffle", "native_channel_shuffle", "contiguous", "clone", "detach", "slice", "alias"),
    }
)
JOINS = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"})
SHUFFLES = frozenset({"channel_shuffle", "native_channel_shuffle"})
CHUNKS = frozenset({"chunk", "split", "tensor_split"})
# They take the device and the type of a tensor, and no values.
FRESH = frozenset({"new_empty", "new_full", "new_ones", "new_zeros"})
REDUCTIONS = frozenset(
    {
        *("mean", "sum", "amax", "amin", "max", "min", "prod", "norm", "std", "var", "logsumexp", "median", "nanmean"),
        *("argmax", "argmin", "all", "any", "nansum"),
    }
)
PRODUCTS = frozenset(
    {
        *("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "addbmm", "einsum", "tensordot"),
        *("linear", "bilinear", "scaled_dot_product_attention", "multi_head_attention_forward", "mv", "dot"),
        *("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell"),
    }
)
CONVOLUTIONS = frozenset(
    {
        *("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        *("unfold", "fold"),
    }
)
CONVOLUTION_CALLS = frozenset({"conv1d", "conv2d", "conv3d"})
# Functions that compute channel i from channel i, with parameters per channel.
NORM_CALLS = frozenset({"batch_norm", "instance_norm", "prelu"})
# Operations that return plain Python values, where channels cannot be followed.
READS = frozenset({"item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__"})
# Elementwise operations and the like, which error messages do not mention.
USUAL = frozenset(
    {
        *("relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "sigmoid", "tanh", "hardtanh"),
        *("hardtanh_", "hardswish", "hardsigmoid", "softplus", "clamp", "clamp_", "add", "add_", "__add__", "__iadd__"),
        *("__radd__", "sub", "__sub__", "__rsub__", "mul", "mul_", "__mul__", "__rmul__", "__imul__", "div"),
        *("__truediv__", "dropout", "dropout2d", "feature_dropout", "max_pool2d", "avg_pool2d", "interpolate", "pad"),
        *("adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool1d", "avg_pool1d", "boolean_dispatch", "to", "float"),
    }
)
