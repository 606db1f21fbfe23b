"""The world inside a bundle, and the bridge to it: people see numpy, named by fields; a world reads encoded slots.

A bundle may be a world model itself, a model of packed rows with a world for each domain, or a policy that was trained inside
a world and carries it along. Everything that dreams asks here and need not know which.

B rows, T steps, A numbers (or codes) of an action.
"""

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqrl.core.errors import UserError, did_you_mean


def world_of(model: Any, tokenizer: Any, domain: str | None = None) -> tuple[Any, Any]:
    """The world model of a bundle, and the tokenizer it reads with.

    Args:
        model, tokenizer: of a bundle. domain: which, of a model of several; may be left out where there is one.

    Raises:
        UserError: there is no world in it, or no such domain.
    """
    domains = getattr(tokenizer, "domains", None)
    if domains is None and domain:
        raise UserError(f"domain '{domain}': this model has no domains, so name none")
    if domains is not None:
        domain, tokenizer = _choose(domain, domains)
    inner = getattr(model, "world", None)
    # A method of a model of packed rows, which makes the world of one domain; a module is an actor's own.
    if callable(inner) and not hasattr(inner, "parameters"):
        return inner(domain), tokenizer
    for found in (model, getattr(model, "inner", None), inner):
        if all(hasattr(found, word) for word in ("observe", "step", "decode")):
            return found, tokenizer
    raise UserError(_what_it_is(model))


def _choose(domain: str | None, domains: Mapping[str, Any]) -> tuple[str, Any]:
    known = ", ".join(domains)
    if domain is None and len(domains) > 1:
        raise UserError(f"this model has several domains ({known}); name one with --domain {next(iter(domains))}")
    domain = domain or next(iter(domains))
    if domain not in domains:
        raise UserError(f"domain '{domain}': this model has none of that name{did_you_mean(domain, domains)} (it has {known})")
    return domain, domains[domain]


def _what_it_is(model: Any) -> str:
    kind = type(model).__module__.removeprefix("seqrl.")
    if kind.startswith("encoders."):
        return f"this is an image tokenizer ({kind}): it has no world model to dream in; name a bundle of worlds.*"
    return (
        f"this is a policy ({kind}): it has no world model to dream in; name a bundle of worlds.*, or play this one with "
        "seqrl eval (a policy may act inside a dream: seqrl dream WORLD --actions policy --policy THIS)"
    )


class Bridge:
    """Raw values of one tokenizer's fields to the encoded ones of its world, and back.

    Attributes:
        front: slots in front of the steps. seen: slots that are observed at every step. device: where the world computes.
        shown: slots the world can show, once it has shown any. fields: of the observations it shows, and those in front.
    """

    def __init__(self, world: Any, tokenizer: Any) -> None:
        """Raises UserError where the layout has no action, so that nothing can be done in the dream."""
        layout = tokenizer.layout
        step = [s.name for s in layout.step]
        if "action" not in step:
            raise UserError(f"layout '{layout}': there is no action in it, so nothing can be done in this dream")
        self.world, self.tokenizer = world, tokenizer
        self.front = tuple(s.name for s in layout.prefix)
        self.seen = tuple(step[: step.index("action")])
        first = next(iter(world.parameters()), None) if hasattr(world, "parameters") else None
        self.device = torch.device("cpu") if first is None else first.device
        spec = tokenizer.spec
        self.shown = self._shown()
        used = {f for n in (*self.front, *self.shown) for f in tokenizer.slots[n].fields}
        self.fields = tuple(n for n in spec.obs if n in used)

    @torch.no_grad()
    def _shown(self) -> tuple[str, ...]:
        """The observed slots the world can show, found out with one empty look."""
        ports, tokens = self.tokenizer.ports(), {"uint8": torch.uint8, "int64": torch.int64, "float32": torch.float32}
        codecs = {n: self.tokenizer.slots[n].codec for n in (*self.seen, *self.front, "action")}
        blank = {n: torch.zeros(1, c.width, dtype=tokens[c.dtype], device=self.device) for n, c in codecs.items()}
        self._blank = {n: blank[n] for n in self.front} or None
        with untouched(self.device):
            carry = self.world.init(1, 2, self._blank)
            z = self.world.encode({n: blank[n][:, None] for n in self.seen}, sample=False)
            carry, _ = self.world.observe(carry, z, blank["action"][:, None])
            _, pred = self.world.step(carry, blank["action"], sample=False)
            found = self.world.decode(pred.latent)
        return tuple(n for n in self.seen if n in found and n in ports.widths)

    @torch.no_grad()
    def check_room(self, steps: int) -> None:
        """Raises UserError where the world cannot hold so many steps, observed and imagined."""
        self.world.init(1, steps, self._blank)

    # ---- in ---------------------------------------------------------------------------------------------------------

    def tensor(self, value: Any) -> Tensor:
        """On the world's device."""
        return torch.from_numpy(np.ascontiguousarray(value)).to(self.device)

    def see(self, obs: Mapping[str, np.ndarray], slots: tuple[str, ...]) -> dict[str, Tensor]:
        """Raw observations ``name -> (B, *shape)`` to slots ``[B, width]``; raises UserError where a field is missing."""
        out = {}
        for name in slots:
            fields = self.tokenizer.slots[name].fields
            if lost := [f for f in fields if f not in obs]:
                raise UserError(f"slot '{name}' of this world is made of {', '.join(fields)}, and {lost[0]} is not there")
            out[name] = self.tensor(self.tokenizer.encode_slot(name, {f: obs[f] for f in fields}))
        return out

    def act(self, action: Mapping[str, np.ndarray]) -> Tensor:
        """Raw actions ``name -> (B, *shape)`` to ``[B, A]``."""
        return self.tensor(self.tokenizer.encode_action(action)["action"])

    def begin(
        self, obs: Mapping[str, Tensor], previous: Tensor, front: Mapping[str, Tensor], steps: int, sample: bool = True
    ) -> tuple[Any, Tensor]:
        """A carry that has taken in some real steps, and what it makes of them.

        Args:
            obs: slot -> ``[B, T, width]``. previous: ``[B, T, A]`` the action that led to each. front: slot -> ``[B, width]``.
            steps: the most that will be imagined.

        Returns:
            the carry, and ``feat [B, T, F]``.

        Raises:
            UserError: the world cannot hold so many.
        """
        rows, T = previous.shape[:2]
        carry = self.world.init(rows, T + steps, dict(front) or None)
        return self.world.observe(carry, self.world.encode(obs, sample=sample), previous)

    # ---- out --------------------------------------------------------------------------------------------------------

    def show(self, latent: Tensor) -> dict[str, np.ndarray]:
        """``[B, *Z]`` to slot -> encoded values ``(B, width)``."""
        found = self.world.decode(latent)
        return {n: found[n].cpu().numpy() for n in self.shown}

    def raw(self, slots: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Encoded values to raw observations ``name -> (B, *shape)``: in bounds, in the data's dtype."""
        return {f: v for n, value in slots.items() for f, v in self.tokenizer.decode_slot(n, value).items()}


@contextmanager
def untouched(device: torch.device, seed: int = 0) -> Any:
    """Draws of its own, from a seed: what torch draws elsewhere is the same with and without what happens inside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
