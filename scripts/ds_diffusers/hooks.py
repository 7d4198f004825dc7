"""Whether calling a module does anything but its class's forward."""

from __future__ import annotations

from torch import nn


def hook_obstacle(path: str, module: nn.Module) -> str | None:
    """What it does besides, in a few words."""
    if _has_hooks(module):
        return f"{path} has hooks"
    if _has_own_forward(module):
        return f"{path}.forward was replaced (by a hook of accelerate or diffusers, or by hand)"
    return None


def has_hooks_or_own_forward(module: nn.Module) -> bool:
    """Whether it does anything besides."""
    return _has_hooks(module) or _has_own_forward(module)


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _has_own_forward(module: nn.Module) -> bool:
    forward = module.forward  # torch.compile guards this look-up, but none in __dict__
    return "forward" in module.__dict__ and not _is_own_method(forward, module)


def _is_own_method(forward: object, module: nn.Module) -> bool:
    """Whether it is but the method of module's class, which accelerate leaves as an attribute when its hook
    goes."""
    return getattr(forward, "__self__", None) is module and forward.__func__ is type(module).forward
