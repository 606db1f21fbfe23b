"""Our models among transformers' own: AutoConfig, AutoModel and AutoProcessor make them, where seqrl is installed.

Then nobody needs ``trust_remote_code``: a published model is loaded by this installation's code, and none of the repository's
is run.
"""

from seqrl.core import kinds


def register() -> None:
    """Makes every model kind known; imports all of them, which takes seconds. Calling it again changes nothing."""
    from transformers import AutoConfig, AutoModel, AutoProcessor

    from seqrl.hub.processor import TrajectoryProcessor

    for room in ("policies", "worlds", "encoders"):
        for name in kinds.names(room):
            module = kinds.load(f"{room}.{name}")
            AutoConfig.register(module.Config.model_type, module.Config, exist_ok=True)
            AutoModel.register(module.Config, module.Model, exist_ok=True)
            AutoProcessor.register(module.Config, TrajectoryProcessor, exist_ok=True)
