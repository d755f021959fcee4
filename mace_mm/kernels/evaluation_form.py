"""The evaluation form: named arrays in one flat tensor, which both engines read.

Layout of the bytes, all integers int64 in the machine's (little-endian) order:

    0    magic "MACEMMEF"
    8    version of the layout
    16   size in bytes of the whole
    24   number of sections
    32   first 8 bytes of the SHA-256 of everything after byte 64
    64   sections, 128 bytes each: name (48, zero padded), dtype, n_dims, shape (6), offset, bytes
    ...  data, each section on a multiple of 64

dtype is 0 float32, 1 float64, 2 int64. Being one uint8 tensor, it can be a buffer of a TorchScript
module: saving, copying and moving it needs no code, and ``.float()`` does not touch it.
"""

import hashlib
import struct

import torch

from mace_mm.errors import ArchiveError

MAGIC = b"MACEMMEF"
VERSION = 2
BLOCK = 16  # channels are stored in blocks of this many
_HEADER_BYTES = 64
_SECTION_BYTES = 128
_NAME_BYTES = 48
_DTYPES = (torch.float32, torch.float64, torch.int64)


def pack(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Lay named tensors end to end into one uint8 tensor on the CPU."""
    sections, chunks = [], []
    offset = _aligned(_HEADER_BYTES + _SECTION_BYTES * len(tensors))
    start = offset
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        data = tensor.numpy().tobytes()
        shape = list(tensor.shape) + [0] * (6 - tensor.dim())
        label = name.encode()
        if len(label) >= _NAME_BYTES or tensor.dim() > 6:
            raise ArchiveError(f"{name} of shape {tuple(tensor.shape)} does not fit the layout")
        sections.append(
            struct.pack(
                f"<{_NAME_BYTES}s10q",
                label,
                _DTYPES.index(tensor.dtype),
                tensor.dim(),
                *shape,
                offset,
                len(data),
            )
        )
        chunks.append(data.ljust(_aligned(len(data)), b"\0"))
        offset += len(chunks[-1])
    directory = b"".join(sections).ljust(start - _HEADER_BYTES, b"\0")
    body = directory + b"".join(chunks)
    digest = hashlib.sha256(body).digest()[:8]
    header = MAGIC + struct.pack("<3q", VERSION, offset, len(tensors)) + digest
    whole = bytearray(header.ljust(_HEADER_BYTES, b"\0") + body)
    return torch.frombuffer(whole, dtype=torch.uint8).clone()


def unpack(form: torch.Tensor) -> dict[str, torch.Tensor]:
    """Views of the named tensors, on the device of ``form``.

    Raises:
        ArchiveError: not an evaluation form, cut short, or of another version.
    """
    if form.dtype != torch.uint8 or form.dim() != 1 or form.numel() < _HEADER_BYTES:
        raise ArchiveError(
            f"an evaluation form is a flat uint8 tensor, got {tuple(form.shape)} {form.dtype}"
        )
    head = form[:_HEADER_BYTES].cpu().numpy().tobytes()
    version, size, count = struct.unpack_from("<3q", head, 8)
    if head[:8] != MAGIC:
        raise ArchiveError(f"not an evaluation form: it starts with {head[:8]!r}")
    if version != VERSION:
        raise ArchiveError(f"evaluation form of version {version}, this package reads {VERSION}")
    if size != form.numel():
        raise ArchiveError(f"damaged evaluation form: {form.numel()} bytes where {size} are due")
    end = _HEADER_BYTES + count * _SECTION_BYTES
    directory = form[_HEADER_BYTES:end].cpu().numpy().tobytes()
    found = {}
    for i in range(count):
        label, dtype, n_dims, *rest = struct.unpack_from(
            f"<{_NAME_BYTES}s10q", directory, i * _SECTION_BYTES
        )
        shape, offset, n_bytes = rest[:n_dims], rest[6], rest[7]
        data = form[offset : offset + n_bytes].view(_DTYPES[dtype])
        found[label.rstrip(b"\0").decode()] = data.reshape(shape)
    return found


def digest(form: torch.Tensor) -> bytes:
    """What tells a form from another: the digest of its content that `pack` stored in it."""
    return form[32:40].cpu().numpy().tobytes()


def _aligned(n_bytes: int) -> int:
    return (n_bytes + 63) // 64 * 64
