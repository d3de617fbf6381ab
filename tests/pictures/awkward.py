"""Pictures of every kind that `decode` knows, made from integers alone: the bytes may differ from one Pillow to the next."""

import io
import struct

import numpy as np
from PIL import Image, ImageCms


def waves(height=48, width=64):
    """Make a smooth uint8 picture (height, width, 3): triangle waves."""
    y, x = np.mgrid[0:height, 0:width]
    forms = (5 * x + 3 * y + x * y // 16, 2 * x + 9 * y + 100, 7 * x - 4 * y + 300)
    return np.stack([np.abs((form % 512) - 255).clip(0, 255) for form in forms], axis=2).astype(np.uint8)


def file_of(image, kind="PNG", **options):
    """Write an image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(levels, photometric=1, bits=16, sample_format=1):
    """Write an uncompressed grey TIFF, since Pillow writes no 12 bits and no "white is zero" of 16 bits."""
    height, width = levels.shape
    if bits == 12:  # two levels in three bytes
        pairs = levels.reshape(-1, 2).astype(np.uint16)
        first, second = pairs.T
        data = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()
    else:
        data = levels.tobytes()
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 134),
        (277, 3, 1), (278, 4, height), (279, 4, len(data)), (339, 3, sample_format),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + data


def profile(gamma, swapped=False):
    """Make a colour profile of sRGB's colours with another gamma, or with red and blue exchanged."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    places = {bytes(data[132 + 12 * n : 136 + 12 * n]): 132 + 12 * n for n in range(count)}
    if swapped:
        red, blue = places[b"rXYZ"], places[b"bXYZ"]
        data[red + 4 : red + 8], data[blue + 4 : blue + 8] = data[blue + 4 : blue + 8], data[red + 4 : red + 8]
    curve = b"curv" + bytes(4) + struct.pack(">IHH", 1, round(gamma * 256), 0)
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        data[places[name] + 4 : places[name] + 12] = struct.pack(">II", len(data), 14)
    data += curve
    data[:4] = struct.pack(">I", len(data))
    return bytes(data)


def grey_profile(gamma):
    """Make a colour profile of grey with a gamma."""
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">IHH", 1, round(gamma * 256), 0)
    table = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, 14)
    header = struct.pack(">I4sI4s4s4s", 192, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">iii", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + white + curve + bytes(2)


def pictures():
    """Name -> the bytes of a file."""
    rgb = Image.fromarray(waves())
    grey = waves()[..., 0]
    grey16 = grey.astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray(waves()[..., 1]))
    return {
        "png": file_of(rgb),
        "jpeg": file_of(rgb, "JPEG", quality=90),
        "jpeg-large": file_of(Image.fromarray(waves(1200, 1600)), "JPEG", quality=90),
        "webp": file_of(rgb, "WEBP", lossless=True),
        "gif": file_of(rgb.quantize(64), "GIF"),
        "bmp": file_of(rgb, "BMP"),
        "turned": file_of(rgb, exif=exif),
        "palette": file_of(rgb.quantize(32)),
        "palette-transparent": file_of(rgb.quantize(32), transparency=3),
        "rgba": file_of(rgba),
        "grey-alpha": file_of(rgba.convert("LA")),
        "one-bit": file_of(Image.fromarray(grey > 99)),
        "cmyk": file_of(rgb.convert("CMYK"), "TIFF"),
        "lab": file_of(Image.frombytes("LAB", rgb.size, waves().tobytes()), "TIFF"),
        "grey16-png": file_of(Image.fromarray(grey16)),
        "grey16-black-is-zero": tiff(grey16),
        "grey16-white-is-zero": tiff(65535 - grey16, photometric=0),
        "grey12": tiff(grey16 >> 4, bits=12),
        "floats-to-1": tiff(grey.astype("<f4") / 255, bits=32, sample_format=3),
        "floats-to-255": tiff(grey.astype("<f4"), bits=32, sample_format=3),
        "floats-white-is-zero": tiff(1 - grey.astype("<f4") / 255, photometric=0, bits=32, sample_format=3),
        "profile-gamma": file_of(rgb, icc_profile=profile(1.8)),
        "profile-swapped": file_of(rgb, icc_profile=profile(2.2, swapped=True)),
        "profile-swapped-rgba": file_of(rgba, icc_profile=profile(2.2, swapped=True)),
        "profile-swapped-grey": file_of(Image.fromarray(grey), icc_profile=profile(1.8, swapped=True)),
        "profile-grey": file_of(Image.fromarray(grey), icc_profile=grey_profile(1.8)),
        "profile-broken": file_of(rgb, icc_profile=b"no profile"),
        "long": file_of(Image.fromarray(waves(20, 1200))),
    }
