"""The one supervised loop: recipe, engine, optimiser, metrics, checkpoints."""
