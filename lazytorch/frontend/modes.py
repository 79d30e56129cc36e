"""The state torch is put into while a function is recorded, and taken out of again."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch._C import DispatchKey, DispatchKeySet
from torch.utils import checkpoint
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode,
)

from lazytorch.errors import UnsupportedError

if TYPE_CHECKING:
    from lazytorch.frontend.recorder import Recorder

VIEWS = DispatchKeySet(DispatchKey.ADInplaceOrView)


class RecordingMode(TorchDispatchMode):
    """Sees every overload: factories, random calls and closure tensors as well as lazy ones."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch otherwise wraps every call against dynamo, 0.6 us each

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self.recorder.call(func, args, kwargs or {})


def in_torch_func() -> bool:
    """Whether this thread runs inside a transform of torch.func, whose tensors have no memory."""
    return torch._C._functorch.peek_interpreter_stack() is not None  # type: ignore[attr-defined]


@contextmanager
def below_autograd() -> Generator[None]:
    """Calls go past autograd, so that composites (linear, layer_norm, attention) arrive whole.

    Also past what keeps `_base` and `_version`: for tensors without memory torch copies the whole
    chain of views at each view, and a write that is only recorded is no new version.
    """
    with torch._C._AutoDispatchBelowAutograd(), torch._C._ExcludeDispatchKeyGuard(VIEWS):
        yield


def current() -> Recorder | None:
    """What records the function that runs now, if one does."""
    mode = _get_current_dispatch_mode()
    return mode.recorder if isinstance(mode, RecordingMode) else None


@contextmanager
def uncollected() -> Generator[None]:
    """Without garbage collection; afterwards it is as it was."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def unseeded(mode: RecordingMode) -> Generator[None]:
    """Refuse seeds, which would be set while recording alone; what runs eagerly may set them."""
    theirs = torch.random.manual_seed
    public = torch.manual_seed  # another function once torch._dynamo, which wraps it, is imported

    def manual_seed(seed: Any) -> torch.Generator:
        if not isinstance(_get_current_dispatch_mode(), RecordingMode):
            return theirs(seed)
        raise UnsupportedError(
            "torch.manual_seed inside a compiled function would not happen again at its next call",
            where=mode.recorder.here(),
            hint="set the seed before the call, or in a function marked lt.disable",
        )

    torch.manual_seed = torch.random.manual_seed = manual_seed
    try:
        yield
    finally:
        torch.manual_seed, torch.random.manual_seed = public, theirs


@contextmanager
def unrepeated(mode: RecordingMode) -> Generator[None]:
    """Refuse writes to outside tensors in what torch.utils.checkpoint runs again in backward:
    eager does them twice, and a recording keeps values instead of running anything again."""
    theirs = checkpoint._checkpoint_hook

    class Frame(theirs):
        def __enter__(self) -> None:
            self.before = mode.recorder.versions()
            super().__enter__()

        def __exit__(self, *raised: object) -> None:
            super().__exit__(*raised)
            if not isinstance(_get_current_dispatch_mode(), RecordingMode) or any(raised):
                return
            if mode.recorder.written_since(self.before):
                raise UnsupportedError(
                    "a checkpointed function writes to tensors that outlive it, such as running "
                    "statistics; its backward pass would write to them again",
                    where=mode.recorder.here(),
                    hint="call it without checkpoint, or keep what writes outside of it",
                )

    checkpoint._checkpoint_hook = Frame
    try:
        yield
    finally:
        checkpoint._checkpoint_hook = theirs


@contextmanager
def recording(mode: RecordingMode) -> Generator[None]:
    """Record everything this thread does until the end of the block."""
    fast = torch.backends.mha.get_fastpath_enabled()
    compiling = torch.compiler._is_compiling_flag
    with ExitStack() as stack:
        # A full collection takes as long as a recording, whose thousands of nodes ask for one.
        stack.enter_context(uncollected())
        # The private fast path of nn.TransformerEncoder reads weights that are not there.
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        # Libraries ask is_compiling() and skip checks that would read values.
        torch.compiler._is_compiling_flag = True
        stack.callback(setattr, torch.compiler, "_is_compiling_flag", compiling)
        # Autocast remembers casts of weights, which would be lazy ones.
        torch.clear_autocast_cache()
        stack.callback(torch.clear_autocast_cache)
        if torch.is_inference_mode_enabled():
            # Views of outside tensors fail under inference mode; leaving it turns gradients on.
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        stack.enter_context(unseeded(mode))
        stack.enter_context(unrepeated(mode))
        stack.enter_context(below_autograd())
        stack.enter_context(mode)
        yield


@contextmanager
def paused() -> Generator[None]:
    """Leave all modes: what runs inside is eager, and its writes are new versions."""
    key = DispatchKey.ADInplaceOrView
    excluded = torch._C._dispatch_tls_is_dispatch_key_excluded(key)
    versions = not torch.is_inference_mode_enabled()
    if versions:
        torch._C._dispatch_tls_set_dispatch_key_excluded(key, False)
    try:
        with _disable_current_modes():
            yield
    finally:
        if versions:
            torch._C._dispatch_tls_set_dispatch_key_excluded(key, excluded)
