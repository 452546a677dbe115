"""Which model a command works with: settled before any weight is loaded, so that plans cost nothing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from purekv_cli.models import registry
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.settings import ModelSettings, Settings
from purekv_cli.terminal import Terminal

if TYPE_CHECKING:
    from purekv_cli.models.base import Adapter
    from purekv_cli.pipeline import Listener


@dataclass(slots=True)
class ChosenModel:
    """A model that was found, and how it would run."""

    source: registry.Source
    settings: ModelSettings

    @property
    def geometry(self) -> ModelGeometry:
        return self.source.geometry

    @property
    def names(self) -> list[str]:
        return [self.source.name]

    @property
    def demo(self) -> bool:
        return self.source.name == "demo"

    def describe(self) -> str:
        facts = self.facts()
        return f"{facts['name']}, {facts['dtype']} on {facts['device']}"

    def facts(self) -> dict[str, Any]:
        return {"name": self.source.name, "dtype": self.settings.dtype, "device": self.settings.device}

    def load(self, tell: "Listener") -> "Adapter":
        return registry.load(self.source)


def choose_model(settings: Settings, terminal: Terminal) -> ChosenModel:
    return ChosenModel(registry.resolve(settings.model.model), settings.model)
