"""Publishing: a model's or a dataset's folder on a Hub, what its page says, and a Hub on this machine to practise with."""
