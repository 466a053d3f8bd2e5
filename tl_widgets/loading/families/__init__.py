"""One short file a model family; to add one, write it and list it here."""

from __future__ import annotations

from tl_widgets.errors import CannotLoad, nearest
from tl_widgets.loading.families import gpt2, llama, saved
from tl_widgets.loading.families.family import Family

FAMILIES: tuple[Family, ...] = (gpt2.FAMILY, llama.FAMILY, saved.FAMILY)

_BY_ARCHITECTURE = {architecture: family for family in FAMILIES for architecture in family.architectures}


def family_of(architecture: str | None) -> Family:
    """Return the family that reads the weights of a transformers class."""
    if architecture is None or architecture not in _BY_ARCHITECTURE:
        known = ", ".join(_BY_ARCHITECTURE)
        close = nearest(str(architecture), _BY_ARCHITECTURE)
        raise CannotLoad(
            f"The architecture {architecture} is not mapped here; there is {known}."
            + (f" The nearest is {close[0]}." if close else "")
            + " A family is one short file in tl_widgets/loading/families/."
        )
    return _BY_ARCHITECTURE[architecture]


__all__ = ["FAMILIES", "Family", "family_of"]
