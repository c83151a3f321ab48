"""What lvs(8) says of one logical volume, thin pools among them."""

from __future__ import annotations

import json
from typing import Any

_FIELDS = "vg_name,lv_name,lv_uuid,lv_size,vg_extent_size,lv_layout,lv_attr"


def lvs(of: str) -> str:
    """The line of shell that asks for it; `of` is a word of shell that names a volume."""
    return f"lvs --reportformat json --units b --nosuffix -o {_FIELDS} {of}\n"


def logical_volume(answer: bytes) -> dict[str, Any]:
    """Its answer: names, UUID, layout and attributes as lvs writes them, `extent_bytes`, and its size in `extents`.
    Raises ValueError when it is not about one volume."""
    try:
        (row,) = json.loads(answer)["report"][0]["lv"]
        extent = int(row["vg_extent_size"])
        return {
            "group": row["vg_name"],
            "name": row["lv_name"],
            "uuid": row["lv_uuid"],
            "layout": row["lv_layout"],
            "attributes": row["lv_attr"],
            "extent_bytes": extent,
            "extents": int(row["lv_size"]) // extent,
        }
    except (LookupError, TypeError) as error:
        raise ValueError(f"lvs did not report one volume: {error}") from None
