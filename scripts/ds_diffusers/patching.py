"""Gives diffusers' transformer blocks the class that runs them fused, and takes it away again."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from types import MethodType
from typing import Any

from torch import nn

from .library import load

_logger = logging.getLogger(__package__)


def patch(model: Any) -> Any:
    """Makes the BasicTransformerBlocks of a diffusers model or pipeline run fused, and returns it.

    Of a pipeline all components are patched, also such as are in a list (several ControlNets). A patched
    block decides at each call: where its modules and the call's arguments allow, it runs as one
    `block_forward`, else in segments around called modules, else as diffusers' own code (`report` says why).
    Parameters, submodules, names and state_dict stay as they are; the blocks' __class__ changes, to a
    subclass of the same name. Blocks of any other subclass are left alone, and patching twice does nothing
    more. Gradients need the original path: run inference, torch.export and torch.jit.trace under
    torch.no_grad() or torch.inference_mode().

    The values of the attentions' q, k and v weights move to memory where they follow each other, now and
    after the model was moved (see `ds_diffusers.layout`). So patch a model when it is on its device, before
    torch.compile; CUDA graphs that were captured before must be captured again, as after Module.to.

    Raises TypeError for anything but a torch.nn.Module or a diffusers pipeline, RuntimeError where the
    library cannot be loaded (see `load`) or this diffusers release is not known. Warns where there is no
    block to patch, and where something has replaced a block's forward by a function of its own. The logger
    "ds_diffusers" tells at level INFO how many blocks will run how.
    """
    roots = _modules_of(model)
    load()
    from .blocks import BasicTransformerBlock, OriginalBlock, place_weights

    found, has_subclass = 0, False
    for block in _unique_modules(roots):
        if type(block) is OriginalBlock:
            if not _change_class(block, BasicTransformerBlock):
                warnings.warn(
                    "ds_diffusers.patch: the forward of a BasicTransformerBlock was replaced by hand and goes "
                    "on as it is: patch before whatever replaces it",
                    stacklevel=2,
                )
            place_weights(block)
        found += isinstance(block, BasicTransformerBlock)
        has_subclass = has_subclass or isinstance(block, OriginalBlock)
    if found == 0:
        but = " but of subclasses, which are left alone" if has_subclass else ""
        warnings.warn(
            f"ds_diffusers.patch: {type(model).__name__} has no BasicTransformerBlock{but}", stacklevel=2
        )
    elif _logger.isEnabledFor(logging.INFO):
        from .reporting import report

        _logger.info("patched %s: %s", type(model).__name__, report(model).summary())
    return model


def unpatch(model: Any) -> Any:
    """Takes back what `patch` did to a model or pipeline, and returns it: nothing of it remains. Needs no
    library. The weights move to memory of their own, so capture CUDA graphs again that were captured with the
    patched model.

    Raises TypeError for anything but a torch.nn.Module or a diffusers pipeline.
    """
    roots = _modules_of(model)
    blocks = sys.modules.get(f"{__package__}.blocks")
    if blocks is None:
        # Nothing can have the class that this module defines.
        return model
    from .calls import forget

    for block in _unique_modules(roots):
        if type(block) is blocks.BasicTransformerBlock:
            _change_class(block, blocks.OriginalBlock)
            forget(block)
    return model


def _change_class(block: nn.Module, kind: type[nn.Module]) -> bool:
    """Hooks of accelerate and diffusers hold on to the method that they replaced, or left it as an attribute:
    it becomes the new class's. False: the block has a forward of its own, and no such method was found."""
    rebound = False
    old_forward = type(block).forward
    block.__class__ = kind
    references = getattr(block.__dict__.get("_diffusers_hook"), "_fn_refs", ())
    for holder in (block, *references):
        for name, value in list(vars(holder).items()):
            if isinstance(value, MethodType) and value.__self__ is block and value.__func__ is old_forward:
                vars(holder)[name] = MethodType(kind.forward, block)
                rebound = True
    return rebound or "forward" not in vars(block)


def named_modules_of(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """All modules of a model or pipeline with their names; a pipeline's begin with the component's name."""
    for prefix, root in _modules_of(model).items():
        yield from root.named_modules(prefix=prefix)


def _unique_modules(roots: dict[str, nn.Module]) -> Iterator[nn.Module]:
    for root in roots.values():
        yield from root.modules()


def _modules_of(model: Any) -> dict[str, nn.Module]:
    if isinstance(model, nn.Module):
        return {"": model}
    components = getattr(model, "components", None)
    if isinstance(components, dict):
        return {name: root for name, value in components.items() for name, root in _component(name, value)}
    raise TypeError(
        f"model is of type {type(model).__name__}, must be a torch.nn.Module or a diffusers pipeline"
    )


def _component(name: str, value: Any) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a pipeline's component: itself, or those in a list."""
    if isinstance(value, nn.Module):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            if isinstance(part, nn.Module):
                yield f"{name}.{index}", part
