"""From the config to a running Ray Train job: inputs, defaults, memory, resources."""
