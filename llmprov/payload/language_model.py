"""Transformers proven, not imported: a tiny BLOOM-style model is trained by its Trainer and generates text.

Nothing is fetched: the tokenizer is trained here on made text, the model starts from a random configuration, and the
hub is switched off. The loss must fall, and the trained model must go on with text it has seen.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
import traceback
from typing import Any, Dict, List, Tuple

from llmprov.payload.document import FAIL, PASS, check, measurement, say

SEED = 20240607
LINES = 512
LENGTH = 24
VOCABULARY = 160
STEPS = 40
BATCH = 16
LEARNING_RATE = 5e-3

#: The loss of the last steps must be below this part of the first: made text this regular is learned quickly.
#: Seen on a CPU: 5.1 nats at the start, 0.9 at the end.
FALL = 0.7

SUBJECTS = ("the host", "a card", "this node", "the fleet", "one rack")
VERBS = ("trains", "checks", "reads", "loads", "counts")
OBJECTS = ("a model", "the tokens", "a batch", "the layers", "every step")


def prove(torch: Any) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]:
    """The checks and the measurements."""
    # Before the first import: both libraries read it then.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    say("training a tiny language model with transformers")
    try:
        with tempfile.TemporaryDirectory(prefix="llmprov-lm-") as folder, quiet():
            result = train(torch, folder)
    except BaseException as error:  # a package may raise anything, SystemExit included
        summary = "training with transformers raised %s: %s" % (type(error).__name__, str(error)[:300])
        remedy = "install transformers, tokenizers and accelerate of versions that fit each other"
        return [check("transformers.train", FAIL, summary, evidence=traceback.format_exc(), remedy=remedy)], []
    return judge(result)


@contextlib.contextmanager
def quiet() -> Any:
    """No progress bars: standard error is kept for what goes wrong."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    yield


def made_text() -> List[str]:
    """Sentences of one pattern, the same on every host."""
    made = random.Random(SEED)
    return [" ".join([made.choice(SUBJECTS), made.choice(VERBS), made.choice(OBJECTS)]) + " ." for _ in range(LINES)]


def tokenizer_of(lines: List[str]) -> Any:
    """A byte-level BPE tokenizer trained on `lines`."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    model.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def train(torch: Any, folder: str) -> Dict[str, Any]:
    """Train, and return `first` and `last` loss in nats, `tokens_per_s`, `train_s`, and the `text` it generates."""
    from transformers import BloomConfig, BloomForCausalLM, Trainer, TrainingArguments, set_seed

    set_seed(SEED)
    lines = made_text()
    tokenizer = tokenizer_of(lines)
    rows = [
        tokenizer(line + "</s>", truncation=True, max_length=LENGTH, padding="max_length", return_tensors="pt")
        for line in lines
    ]
    data = []
    for row in rows:
        ids, mask = row["input_ids"][0], row["attention_mask"][0]
        # Padding is nothing to learn.
        data.append({"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)})
    config = BloomConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        n_layer=2,
        n_head=4,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = BloomForCausalLM(config)
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        seed=SEED,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data)
    # The Trainer prints its log; it keeps it, too.
    trainer.remove_callback(printer())
    began = time.perf_counter()
    trainer.train()
    elapsed = time.perf_counter() - began
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "first": sum(losses[:3]) / len(losses[:3]),
        "last": sum(losses[-3:]) / len(losses[-3:]),
        "train_s": elapsed,
        "tokens_per_s": STEPS * BATCH * LENGTH / elapsed,
        "text": generate(torch, trainer.model, tokenizer, lines[0]),
    }


def printer() -> Any:
    """The callback by which the Trainer prints its log."""
    from transformers import PrinterCallback

    return PrinterCallback


def generate(torch: Any, model: Any, tokenizer: Any, line: str) -> str:
    """What the model makes of the first two words of a line."""
    model.eval()
    start = tokenizer(" ".join(line.split()[:2]), return_tensors="pt").to(model.device)
    with torch.no_grad():
        made = model.generate(**start, max_new_tokens=12, do_sample=False)
    return str(tokenizer.decode(made[0], skip_special_tokens=True))


def judge(result: Dict[str, Any]) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]:
    """A NaN is neither below a bound nor above it: it fails."""
    first, last = result["first"], result["last"]
    fell = last < FALL * first
    words = set(result["text"].replace(".", " ").split())
    known = set(" ".join((*SUBJECTS, *VERBS, *OBJECTS)).split())
    spoke = len(words & known) >= 4
    remedy = "install torch and transformers anew; if that does not help, suspect the device's memory"
    checks = [
        check(
            "transformers.train",
            PASS if fell else FAIL,
            "a BLOOM-style model %s" % ("learned" if fell else "did not learn"),
            last,
            "below %.2f of %.3f" % (FALL, first),
            "nats",
            evidence="loss %.3f at the start, %.3f at the end" % (first, last),
            remedy="" if fell else remedy,
        ),
        check(
            "transformers.generate",
            PASS if spoke else FAIL,
            "the model %s" % ("goes on with text it has seen" if spoke else "generates nothing it has learned"),
            result["text"][:200],
            "words of its training text",
            remedy="" if spoke else remedy,
        ),
    ]
    if not fell and not spoke:
        return checks, []
    figures = [
        measurement("transformers.tokens_per_s", result["tokens_per_s"], "tokens/s"),
        measurement("transformers.train_s", result["train_s"], "s"),
    ]
    return checks, figures
