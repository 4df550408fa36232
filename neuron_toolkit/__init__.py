"""The toolkit's public interface."""

from neuron_toolkit.plugin import GraphOperator, NewInstruction, Plugin, load_plugin, loaded_plugins

__all__ = ["GraphOperator", "NewInstruction", "Plugin", "load_plugin", "loaded_plugins"]
