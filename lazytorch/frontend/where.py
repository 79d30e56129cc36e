"""Which line of the user's code is running: the nearest frame outside torch and lazytorch."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from lazytorch.errors import Where

_OURS = tuple(
    f"{path}/" for path in (Path(str(torch.__file__)).parent, Path(__file__).parent.parent)
)


class Lines:
    """Finds the user's line; remembers which files are whose, and the lines already seen."""

    def __init__(self) -> None:
        self.theirs: dict[str, bool] = {}
        self.seen: dict[tuple[str, int, str], Where] = {}

    def here(self, module: str) -> Where | None:
        """The user's line with the module path that is running; None when there is none."""
        frame = sys._getframe(2)
        theirs = self.theirs
        while frame is not None:
            file = frame.f_code.co_filename
            answer = theirs.get(file)
            if answer is None:
                answer = not file.startswith(_OURS) and not file.startswith("<frozen")
                theirs[file] = answer
            if answer:
                key = (file, frame.f_lineno, module)
                found = self.seen.get(key)
                if found is None:
                    found = Where(file, frame.f_lineno, frame.f_code.co_name, module)
                    self.seen[key] = found
                return found
            frame = frame.f_back
        return None
