"""Sample gradients of plain convolutions without unfolding: matrix products with shifted inputs.

The gradient of a sample is the product of its outputs' slopes with the windows of its inputs, summed over places
(Rochette, Manoel, Tramel: Efficient per-example gradient computations in convolutional neural networks, 2019). A
matrix of all windows holds every input once for each place of the kernel. Here inputs are copied once for each *column*
of the kernel, shifted and cut to the output's width; its rows are then parts of one long line that begin later, which a
matrix product reads where they are.
"""

from typing import NamedTuple, cast

import torch


class _Kernel(NamedTuple):
    """Height, width, and by axis stride, dilation and padding of a convolution."""

    size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]


def is_plain(module: torch.nn.Conv2d) -> bool:
    """Whether a convolution is ungrouped with a number of zeros around, the kind that is known here."""
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def products(module: torch.nn.Conv2d, given: torch.Tensor, slopes: torch.Tensor, out: torch.Tensor) -> None:
    """Each sample's gradient of the weight by one use of a plain convolution.

    Parameters
    ----------
    module : see `is_plain`
    given : (s, inputs, h, w);  slopes : of its outputs, (s, outputs, h', w')
    out : (s, outputs, inputs, height, width), written over
    """
    kernel = _kernel(module)
    count, channels = given.shape[:2]
    outputs, height, width = slopes.shape[1:]
    flat = slopes.reshape(count, outputs, height * width)
    if kernel.size == (1, 1) and kernel.padding == (0, 0):
        used = given[:, :, :: kernel.stride[0], :: kernel.stride[1]].reshape(count, channels, -1)
        torch.bmm(flat, used.transpose(1, 2), out=out.view(count, outputs, channels))
        return
    if _unfolds(kernel, outputs, height * width):
        windows = torch.nn.functional.unfold(given, kernel.size, kernel.dilation, kernel.padding, kernel.stride)
        torch.bmm(flat, windows.transpose(1, 2), out=out.view(count, outputs, -1))
        return
    lines = _lines(kernel, given, width)
    for row in range(kernel.size[0]):
        # The rows of the input that this row of the kernel meets: every stride-th, from here on.
        start, phase = divmod(row * kernel.dilation[0], kernel.stride[0])
        met = lines[:, :, :, phase, start * width : (start + height) * width]
        product = torch.bmm(flat, met.reshape(count, kernel.size[1] * channels, height * width).transpose(1, 2))
        out[:, :, :, row] = product.view(count, outputs, kernel.size[1], channels).transpose(2, 3)


def working_bytes(module: torch.nn.Conv2d, given: torch.Size, output: torch.Size) -> int:
    """Bytes of one sample that `products` needs beside its result; shapes as of `given` and the outputs."""
    kernel = _kernel(module)
    channels = given[1]
    if kernel.size == (1, 1) and kernel.padding == (0, 0):
        return 4 * channels * output[2] * output[3]
    if _unfolds(kernel, output[1], output[2] * output[3]):
        return 4 * channels * kernel.size[0] * kernel.size[1] * output[2] * output[3]
    rows, columns = (size + 2 * pad for size, pad in zip(given[2:], kernel.padding, strict=True))
    held = channels * rows * columns + kernel.size[1] * channels * (rows + kernel.stride[0]) * output[3]
    return 4 * (held + output[1] * channels * kernel.size[1])


def _unfolds(kernel: _Kernel, outputs: int, places: int) -> bool:
    """Whether the matrix of all windows is smaller than the gradient: then one product writes that in its order."""
    return places < outputs


def _lines(kernel: _Kernel, given: torch.Tensor, width: int) -> torch.Tensor:
    """The padded inputs, shifted for each column of the kernel, rows in a line. (s, columns, inputs, stride, line)

    Rows come apart by their number modulo the vertical stride, so that those that one row of the kernel meets follow
    each other.
    """
    above, beside = kernel.padding
    padded = torch.nn.functional.pad(given, (beside, beside, above, above)) if above or beside else given
    count, channels, height = padded.shape[:3]
    down, right = kernel.stride
    rows = -(-height // down)
    lines = padded.new_zeros((count, kernel.size[1], channels, down, rows, width))
    for column in range(kernel.size[1]):
        first = column * kernel.dilation[1]
        shifted = padded[:, :, :, first : first + right * (width - 1) + 1 : right]
        for phase in range(down):
            part = shifted[:, :, phase::down]
            lines[:, column, :, phase, : part.shape[2]] = part
    return lines.view(count, kernel.size[1], channels, down, rows * width)


def _kernel(module: torch.nn.Conv2d) -> _Kernel:
    pair = tuple[int, int]
    return _Kernel(
        cast(pair, module.kernel_size),
        cast(pair, module.stride),
        cast(pair, module.dilation),
        cast(pair, module.padding),
    )
