"""Reading of single DICOM elements that forgives what archives contain.

Values come from pydicom, which converts them when they are asked for; every access to one stands here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Sequence as Many
from functools import cache
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from storage.source.damage import CONVERSIONS, PYDICOM, DamagedError, library_errors


def required_value(source: Dataset, keyword: str) -> Any:  # noqa: ANN401  # what pydicom gives
    """Return the value of an element; None if it is absent.

    Raises
    ------
    DamagedError
        If it cannot be converted.
    """
    with library_errors(PYDICOM):
        return source.get(keyword)


def get_value(source: Dataset | None, keyword: str) -> Any:  # noqa: ANN401  # what pydicom gives
    """Return the value of an element; None if it is absent or cannot be converted."""
    if source is None:
        return None
    tag = tag_of(keyword)  # half the time of asking by keyword
    try:
        item: DataElement | RawDataElement | None = source.get_item(tag)
        return None if item is None else item.value if isinstance(item, DataElement) else source[tag].value
    except PYDICOM:
        return None


@cache
def tag_of(keyword: str) -> BaseTag:
    """Tag of an element."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword!r} is no keyword of DICOM")
    return BaseTag(tag)


def get_text(source: Dataset | None, keyword: str) -> str:
    """Return the text of an element, without padding; empty if absent.

    Raises
    ------
    DamagedError
        If it is no text in the file's character set.
    """
    value = get_value(source, keyword)
    return "" if value is None else _text_of(value)


def get_code(source: Dataset, keyword: str) -> str:
    """Return the text of a date or an identifier, without padding and as it stands in the file; empty if absent.

    Its characters are those of ASCII, so that the library's conversion, which takes longer, is not needed.
    """
    try:
        value = source.get_item(keyword).value if keyword in source else None
    except PYDICOM:
        return ""
    return (
        value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else "" if value is None else _text_of(value)
    )


def get_words(source: Dataset | None, keyword: str) -> tuple[str, ...]:
    """Return the values of an element as upper-case words; raises as `as_words`."""
    return as_words(get_value(source, keyword))


def as_words(value: Any) -> tuple[str, ...]:  # noqa: ANN401  # what pydicom gives
    """Return the upper-case words of one value or many.

    Raises
    ------
    DamagedError
        If the value has another kind than words have.
    """
    if value is None or value == "":
        return ()
    if not isinstance(value, Iterable):
        raise DamagedError("TypeError")
    many = [value] if isinstance(value, str) else list(value)
    return tuple(_text_of(word).upper() for word in many)


def _text_of(value: object) -> str:
    try:
        text = str(value)  # names are decoded only here
    except PYDICOM as error:
        raise DamagedError(type(error).__name__) from None
    return text.strip(" \0")


def get_number(source: Dataset | None, keyword: str) -> float | None:
    """Return the first value of an element as a finite number."""
    return as_number(get_value(source, keyword))


def as_number(value: Any) -> float | None:  # noqa: ANN401  # what pydicom gives
    """Return the first of one value or many as a finite number, else None."""
    try:
        if value is not None and not isinstance(value, (str, bytes)) and hasattr(value, "__len__"):
            value = value[0] if len(value) else None
        result = None if value is None or value == "" else float(value)
    except CONVERSIONS:
        return None
    return result if result is not None and math.isfinite(result) else None


def get_integer(source: Dataset | None, keyword: str) -> int | None:
    """Return the first value of an element as an integer."""
    value = get_number(source, keyword)
    return None if value is None else int(value)


def get_vector(source: Dataset | None, keyword: str, size: int) -> tuple[float, ...] | None:
    """Return exactly ``size`` finite numbers, else None."""
    value = get_value(source, keyword)
    if not isinstance(value, Iterable):
        return None
    try:
        result = tuple(map(float, value))
    except CONVERSIONS:
        return None
    return result if len(result) == size and all(map(math.isfinite, result)) else None


def first_value(sources: tuple[Dataset, ...], keyword: str) -> Any:  # noqa: ANN401  # what pydicom gives
    """Return the value of the first source that has a non-empty one."""
    for source in sources:
        value = get_value(source, keyword)
        if value is not None and value != "":
            return value
    return None


def first_number(sources: tuple[Dataset, ...], keyword: str) -> float | None:
    """Return the number of the first source that has one."""
    return as_number(first_value(sources, keyword))


def all_numbers(sources: tuple[Dataset, ...], keyword: str) -> list[float]:
    """Return the numbers of the first source that has any, infinite ones included."""
    value = first_value(sources, keyword)
    many = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    result = []
    for one in many:
        try:
            result += [] if one is None else [float(one)]
        except CONVERSIONS:
            continue
    return result


def first_words(sources: tuple[Dataset, ...], keyword: str) -> tuple[str, ...]:
    """Return the words of the first source that has any."""
    return as_words(first_value(sources, keyword))


def items_of(value: Any) -> Many[Dataset]:  # noqa: ANN401  # what pydicom gives
    """Return the items of a sequence; none of a value that is no sequence."""
    return value if isinstance(value, Sequence) else ()


def first_item(source: Dataset, keyword: str) -> Dataset | None:
    """Return the first item of a sequence; None if it is absent or empty."""
    return next(iter(items_of(get_value(source, keyword))), None)


_SYNTAX = BaseTag(0x00020010)


def transfer_syntax(dataset: Dataset) -> str:
    """Return the identifier of the transfer syntax; empty if the file has none.

    Raises
    ------
    DamagedError
        If it cannot be converted.
    """
    with library_errors(PYDICOM):
        meta = getattr(dataset, "file_meta", None)
        return str(meta[_SYNTAX].value) if meta is not None and _SYNTAX in meta else ""


def private_value(source: Dataset | None, group: int, creator: str, element: int) -> Any:  # noqa: ANN401  # what pydicom gives
    """Return the value of a private element of the block that ``creator`` reserved; None if absent."""
    if source is None or not any(tag >> 16 == group for tag in source.keys()):  # noqa: SIM118  # a slow search less
        return None
    try:
        return source.private_block(group, creator)[element].value
    except PYDICOM:
        return None


def private_item(source: Dataset, group: int, creator: str, element: int) -> Dataset | None:
    """Return the first item of a private sequence."""
    return next(iter(items_of(private_value(source, group, creator, element))), None)


def private_creators(source: Dataset, group: int) -> list[str]:
    """Return the creators of a group's private blocks, in the order of the blocks."""
    try:
        return source.private_creators(group)
    except PYDICOM:
        return []


def private_number(source: Dataset, group: int, creator: str, element: int) -> float | None:
    """Return the number of a private element."""
    return as_number(private_value(source, group, creator, element))


def private_words(source: Dataset | None, group: int, creator: str, element: int) -> tuple[str, ...]:
    """Return the words of a private element."""
    return as_words(private_value(source, group, creator, element))
