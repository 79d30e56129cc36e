"""Cold and warm starts of every model of a suite, beside torch.compile's default.

    python benchmarks/cold.py FOLDER [cnn|transformers|MODEL ...]

Each side starts twice in fresh processes, with empty caches of compiled code and then with filled
ones; eager runs first, so that no side waits for torch's own files to come from the disk. One JSON
a case; a case that is there, from this machine and these sources, is skipped. What is claimed: a
first right result in a tenth of torch.compile's time, within 5 % of full speed in a fifth, and with
warm caches a first result in half a second.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lazytorch.bench import Case, Start, best_device, machine, starts
from lazytorch.bench.compare import reason
from lazytorch.bench.shards import Shards, case_name
from lazytorch.bench.start import fresh_process
from lazytorch.bench.suites import suite
from lazytorch.errors import LazyTorchError

SIDES = ("lazytorch", "inductor")
FIRST, NEAR, WARM = 1 / 10, 1 / 5, 0.5
SUITES = ("cnn", "transformers")


def measured(case: Case) -> dict[str, Any]:
    """Both sides' starts, and what they say about the claims."""
    found: dict[str, Any] = {}
    fresh_process(case, "eager", {})
    for side in SIDES:
        try:
            cold, warm = starts(case, side, lambda text: print(case_name(case), text, flush=True))
        except LazyTorchError as error:
            found[side] = {"failed": reason(error)}
        else:
            found[side] = {"cold_s": asdict(cold), "warm_s": asdict(warm)}
    return {"case": case_name(case), "sides": found, "claims": claims(found)}


def claims(sides: dict[str, Any]) -> dict[str, Any]:
    """Our seconds by torch.compile's, and which claims hold; none where a side failed."""
    if any("failed" in side for side in sides.values()):
        return {}
    (ours, warm), (theirs, _) = (map(of, (s["cold_s"], s["warm_s"])) for s in map(sides.get, SIDES))
    first, near = ours.first / theirs.first, ours.near / theirs.near
    return {
        "first, by torch.compile's": first,
        "near, by torch.compile's": near,
        "warm first, s": warm.first,
        "right": not (ours.fault or warm.fault),
        "first holds": first <= FIRST,
        "near holds": near <= NEAR,
        "warm holds": warm.first < WARM,
    }


def of(found: dict[str, Any]) -> Start:
    return Start(**found)


def cases(names: list[str]) -> list[Case]:
    """The cases of the suites that are named, or those of models that are."""
    every = [case for name in SUITES for case in suite(name, best_device())]
    named = {name: suite(name, best_device()) for name in SUITES}
    wanted = [case for name in names if name in named for case in named[name]]
    return wanted + [x for x in every if x.model in names] if names else every


def main(folder: Path, names: list[str]) -> None:
    """Measure what is left and write."""
    shards, device = Shards(folder), best_device()
    for case in cases(names):
        name = f"start_{case_name(case)}"
        if shards.there(name, device, lambda found: bool(found["claims"])):
            continue
        found = measured(case)
        shards.write(name, {"machine": machine(device), **found})
        print(name, found["claims"] or found["sides"], flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
