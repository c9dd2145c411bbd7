"""Third-party chatter, off while a model loads: bars and hints about what Livebrush leaves out on purpose."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

CHATTY = ("diffusers", "transformers", "peft")


@contextmanager
def quiet() -> Iterator[None]:
    """Lets only errors of diffusers, transformers and peft through, no bar but a download's. Then all is as before."""
    from diffusers.utils import logging as diffusers_log
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_log

    downloads = not are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [x.level for x in loggers]
    bars = [x for x in (diffusers_log, transformers_log) if x.is_progress_bar_enabled()]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    for module in bars:
        module.disable_progress_bar()
    if downloads:
        enable_progress_bars()  # transformers' switch turns them off as well
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # checkpoints' configurations of older releases
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for module in bars:
            module.enable_progress_bar()
