"""Frames in, painted frames out: the pipeline, its models, sources and sinks. See `stream/pipeline.py` first."""
