"""A few facts in both layouts."""

from __future__ import annotations

from typing import Any

CITIES = {
    "Norway": ["Oslo", "Bergen", "Trondheim", "Tromsø", "Bodø"],
    "Denmark": ["Aarhus", "Odense", "Aalborg", "Esbjerg"],
    "Finland": ["Turku", "Oulu", "Espoo"],
}
SPOKEN = {"Norway": "Norwegian", "Denmark": "Danish", "Finland": "Finnish"}


def own_facts() -> dict[str, Any]:
    """Two relations about the same subjects."""
    pairs = [(city, country) for country, cities in CITIES.items() for city in cities]
    return {
        "P17": {
            "wordings": ["{} lies in", "The country around {} is", "A map shows {} in"],
            "generation": ["Visitors of {} see", "Trains to {} cross"],
            "facts": [{"subject": city, "object": country} for city, country in pairs],
        },
        "P37": {
            "wordings": ["Signs in {} are in", "Schools of {} teach in"],
            "facts": [{"subject": city, "object": SPOKEN[country]} for city, country in pairs],
        },
    }


def pararel_facts() -> dict[str, Any]:
    """The same facts as ParaRel has them."""
    own = own_facts()
    return {
        name: {
            "patterns": [
                *({"pattern": f"{w.replace('{}', '[X]')} [Y] ."} for w in of["wordings"]),
                {"pattern": "[Y] is where [X] is"},
            ],
            "facts": [
                {"sub_label": f["subject"], "obj_label": f["object"], "uuid": str(i)}
                for i, f in enumerate(of["facts"])
            ],
        }
        for name, of in own.items()
    }
