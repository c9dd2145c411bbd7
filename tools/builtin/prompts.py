"""What the built-in model reads: the words for every style, made-up subjects, and a small CLIP tokenizer over them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel

Rng = np.random.Generator

WORDS: dict[str, tuple[str, ...]] = {
    "watercolor": ("watercolor", "watercolor painting", "watercolour", "watercolour painting", "aquarelle",
                   "water color wash"),
    "oil": ("oil painting", "oil on canvas", "oil paint", "impasto", "thick brush strokes", "painted in oils"),
    "pencil": ("pencil sketch", "pencil drawing", "graphite drawing", "pencil", "sketch", "charcoal drawing"),
    "engraving": ("engraving", "ink engraving", "etching", "line engraving", "copperplate engraving", "ink hatching"),
    "cartoon": ("cartoon", "comic book", "comic", "cel shading", "anime", "animated film"),
    "pop art": ("pop art", "andy warhol", "screen print", "halftone print", "lichtenstein", "halftone dots"),
    "neon": ("neon", "neon lights", "neon glow", "glowing neon edges", "neon sign", "cyberpunk neon"),
    "thermal": ("thermal", "thermal camera", "heat map", "infrared", "thermal imaging", "heat vision"),
    "night vision": ("night vision", "night vision goggles", "green night vision", "surveillance camera at night"),
    "sepia": ("sepia", "sepia photograph", "old photograph", "vintage photo", "antique photo", "daguerreotype"),
    "blueprint": ("blueprint", "technical drawing", "cyanotype", "architectural plan", "blueprint drawing"),
    "vaporwave": ("vaporwave", "synthwave", "retrowave", "outrun", "vaporwave aesthetic", "80s synthwave"),
    "pixel art": ("pixel art", "8-bit game", "8 bit", "retro pixels", "mosaic", "pixelated video game"),
    "ukiyo-e": ("ukiyo-e", "ukiyo-e print", "japanese woodblock print", "hokusai", "woodblock print",
                "japanese print"),
}  # fmt: skip
PHOTO = ("photo", "photograph", "a realistic photo", "no style", "natural photo", "unchanged", "a photo of",
         "raw photograph")  # fmt: skip
SUBJECTS = """a cat|a dog|a man|a woman|a face|a portrait|a person|people|a child|a street|a city|a house|a castle|
a mountain|a forest|a river|the sea|a beach|a flower|flowers|a garden|a car|a motorcycle|a train|a ship|a bird|a horse|
a dragon|a robot|a spaceship|an astronaut|the moon|the sun|stars|clouds|rain|snow|fire|a tree|trees|a bridge|a tower|
a temple|a table|a cup of coffee|fruit|an apple|a window|a door|a room|a crowd|a dancer|a singer|a band on stage|
a guitar|a concert|hands|eyes|an old man|a young woman|a king|a queen|a knight|a wizard|a fish|a lion|a tiger|a wolf|
an elephant|a golden dragon|a red car|a blue sky|a green field|an island|a desert|a cave|a lake|a market|a kitchen|
a book|a clock|a mask|a skull|a crystal|a machine|an angel|a ghost|a butterfly|the streamer|my webcam|me|us|
everyone|a landscape|a still life|a building|a rocket|a planet|a galaxy|a volcano|a waterfall|a village|
a farm|a cathedral"""
SUBJECTS_LIST = tuple(s.strip() for s in SUBJECTS.replace("\n", "").split("|"))
ADJECTIVES = ("beautiful", "highly detailed", "vivid", "dark", "bright", "masterpiece", "4k", "soft", "dramatic",
              "colorful", "elegant", "amazing", "trending", "intricate", "best quality")  # fmt: skip
OWNERS = ("my", "our", "their", "my mother's", "my father's", "my friend's", "a king's", "the city's", "someone's",
          "somebody else's", "the artist's", "the neighbour's")  # fmt: skip
JOINS = ("{a} and {b}", "{a}, {b}", "{a} mixed with {b}", "half {a} half {b}", "{a} {b}", "a {a} in {b} style")
CONTEXT = 77


def nonsense(rng: Rng) -> str:
    """A word that nobody has taught the model."""
    return "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(3, 10)))


def subject(rng: Rng) -> str:
    if rng.random() < 0.3:
        return " ".join(nonsense(rng) for _ in range(rng.integers(1, 4)))
    return str(rng.choice(SUBJECTS_LIST))


def dressed(core: str, rng: Rng) -> str:
    if rng.random() < 0.35:
        extra = str(rng.choice(ADJECTIVES))
        core = f"{extra} {core}" if rng.random() < 0.4 else f"{core}, {extra}"
    return core.upper() if rng.random() < 0.03 else core


def style_prompt(style: str, rng: Rng) -> str:
    """A prompt that asks for `style`, with or without a subject."""
    if style == "photo":
        return photo_prompt(rng)
    word = str(rng.choice(WORDS[style]))
    shape = rng.choice(["{w}", "a {w}", "{w} of {s}", "a {w} of {s}", "{s}, {w}", "{s} in the style of {w}",
                        "{w} style", "in {w} style", "{s}, {w} style", "{s} as {w}"],
                       p=[0.2, 0.08, 0.12, 0.16, 0.16, 0.08, 0.06, 0.04, 0.06, 0.04])  # fmt: skip
    return dressed(str(shape).format(w=word, s=subject(rng)), rng)


def photo_prompt(rng: Rng) -> str:
    """A prompt that names no style: nothing, a subject, unknown words."""
    chance = rng.random()
    if chance < 0.4:
        return ""
    if chance < 0.55:
        return str(rng.choice(PHOTO))
    if chance < 0.7:
        owner, owned = str(rng.choice(OWNERS)), subject(rng).removeprefix("a ").removeprefix("an ")
        return dressed(f"{owner} {owned}", rng)
    return dressed(subject(rng), rng)


def mixed_prompt(a: str, b: str, rng: Rng) -> str:
    words = {"a": str(rng.choice(WORDS.get(a, PHOTO))), "b": str(rng.choice(WORDS.get(b, PHOTO)))}
    return dressed(str(rng.choice(JOINS)).format(**words), rng)


def make_tokenizer(folder: Path, vocabulary: int = 1000, seed: int = 0) -> None:
    """Trains CLIP's byte-level BPE on prompts and writes `vocab.json`, `merges.txt` and the configuration."""
    rng = np.random.default_rng(seed)
    corpus = [style_prompt(s, rng).lower() for s in WORDS for _ in range(300)]
    corpus += [dressed(str(s), rng).lower() for s in SUBJECTS_LIST for _ in range(6)]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(ByteLevel.alphabet())
    base = len(alphabet) * 2 + 2
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - base + len(alphabet), end_of_word_suffix="</w>", show_progress=False, min_frequency=4
    )
    tokenizer.train_from_iterator(corpus, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    pairs = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in merges][: vocabulary - base]
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(p) for p in pairs)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(p) for p in pairs) + "\n")
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
