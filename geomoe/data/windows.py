"""The windows of a scene: where they start, and how many there are."""


def window_stride(stride: int | None, size: int) -> int:
    """The stride of windows of `size` pixels, half of it where None; ValueError where windows would not touch each other."""
    stride = size // 2 if stride is None else stride
    if not (1 <= stride <= size and int(stride) == stride):
        raise ValueError(f"stride = {stride} must be a whole number between 1 and the {size} pixels of a window")
    return int(stride)


def count_windows(length: int, size: int, stride: int) -> int:
    """Count the windows that cover a length: one every `stride` pixels, the last of which may reach beyond its end."""
    return max(-(-(length - size) // stride), 0) + 1


def read_share(option: str, value: float) -> float:
    """The value of an option, a plain number; ValueError where it is no share of a window."""
    if not 0 <= value <= 1:
        raise ValueError(f"{option} = {value} must be in [0, 1]")
    return float(value)
