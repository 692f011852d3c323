"""Mistakes in model folders."""

from __future__ import annotations

from .making import CHECK, TRAIN, Wrong, adapter, both, cut, drop, edit, pickled, put, weights

MODELS = [
    Wrong(
        "none",
        CHECK,
        "model_name_or_path: expected a local folder or a hub id",
        edit("run.yaml", lambda text: text.replace("model_name_or_path: model", "")),
    ),
    Wrong("missing folder", f"{TRAIN} model_name_or_path=./no", "there is no folder ./no; check the path"),
    Wrong("file", f"{TRAIN} model_name_or_path=model/config.json", "there is no folder model/config.json"),
    Wrong("hub id offline", f"{TRAIN} model_name_or_path=acme/no", "hf download acme/no"),
    Wrong(
        "neither path nor id",
        f"{TRAIN} model_name_or_path='a b'",
        "'a b' is neither a folder here nor a hub id",
    ),
    Wrong(
        "revision of a folder",
        f"{TRAIN} model_revision=v1",
        "model_revision: has no effect on the local folder",
    ),
    Wrong("no config", TRAIN, "holds neither config.json nor adapter_config.json", drop("model/config.json")),
    Wrong("broken config", TRAIN, "model/config.json can't be used", put("model/config.json", '{"a": ')),
    Wrong("config is a list", TRAIN, "model/config.json can't be used", put("model/config.json", "[]")),
    Wrong("config without a type", TRAIN, "should have a `model_type` key", put("model/config.json", "{}")),
    Wrong("unknown kind", TRAIN, "model type `odd`", put("model/config.json", '{"model_type": "odd"}')),
    Wrong(
        "code of its own",
        TRAIN,
        "set trust_remote_code=true",
        put("model/config.json", '{"model_type": "odd", "auto_map": {"AutoConfig": "code.Config"}}'),
    ),
    Wrong("no tokenizer", TRAIN, "model has no tokenizer; copy its files", drop("model/tokenizer*")),
    Wrong(
        "broken tokenizer", TRAIN, "no tokenizer that can be loaded", put("model/tokenizer.json", '{"a": ')
    ),
    Wrong(
        "tokenizer of another kind",
        TRAIN,
        "no tokenizer that can be loaded",
        put("model/tokenizer.json", "{}"),
    ),
    Wrong(
        "no padding token",
        TRAIN,
        "neither a padding nor an end token",
        edit("model/tokenizer_config.json", lambda text: text.replace('"pad_token"', '"other"')),
    ),
    Wrong("no weights", TRAIN, "model can't be loaded", drop("model/model.safetensors")),
    Wrong("pickled weights", TRAIN, "set allow_pickle=true if you trust them", pickled),
    Wrong("cut weights", TRAIN, "its weights are damaged", cut("model/model.safetensors", 3000)),
    Wrong("empty weights", TRAIN, "its weights are damaged", cut("model/model.safetensors", 0)),
    Wrong(
        "weights are a pointer",
        TRAIN,
        "was the copy or download cut short?",
        put("model/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    ),
    Wrong(
        "half of the weights",
        TRAIN,
        "lack 16 that its config.json asks for",
        weights(lambda found: {name: w for name, w in found.items() if "layer.1." not in name}),
    ),
    Wrong(
        "weights of something else",
        TRAIN,
        "which would start at random",
        weights(lambda found: {f"other.{name}": w for name, w in found.items()}),
    ),
    Wrong(
        "other shapes",
        TRAIN,
        "other shapes than its config.json says",
        weights(lambda found: {name: w[:4].clone() if "query" in name else w for name, w in found.items()}),
    ),
    Wrong("attention", f"{TRAIN} attn_implementation=fast", 'attn_implementation="fast"` is not supported'),
    Wrong("adapter without weights", f"{TRAIN} model_name_or_path=adapter", "has no weights", adapter()),
    Wrong(
        "base is gone",
        f"{TRAIN} model_name_or_path=adapter",
        "That is the base model in",
        adapter("/gone/base"),
    ),
    Wrong(
        "base is not named", f"{TRAIN} model_name_or_path=adapter", "base_model_name_or_path", adapter(None)
    ),
    Wrong(
        "base is an adapter", f"{TRAIN} model_name_or_path=adapter", "an adapter again", adapter("adapter")
    ),
    Wrong(
        "broken adapter",
        f"{TRAIN} model_name_or_path=adapter",
        "adapter_config.json: expected JSON",
        put("adapter/adapter_config.json", "{"),
    ),
    Wrong(
        "damaged adapter",
        f"{TRAIN} model_name_or_path=adapter",
        "the adapter adapter can't be loaded",
        both(adapter(), put("adapter/adapter_model.safetensors", "xx")),
    ),
    Wrong(
        "pickled adapter",
        f"{TRAIN} model_name_or_path=adapter",
        "adapter has only pickled weights",
        both(adapter(), put("adapter/adapter_model.bin", "xx")),
    ),
    Wrong("LoRA name", f"{TRAIN} use_lora=true lora_target_modules=[qury]", "linear modules are dense, key"),
    Wrong(
        "one LoRA name of two",
        f"{TRAIN} use_lora=true 'lora_target_modules=[query, qury]'",
        "['qury'] fits no",
    ),
    Wrong(
        "LoRA pattern", f"{TRAIN} use_lora=true 'lora_target_modules=('", "'(' fits no module of the model"
    ),
    Wrong(
        "broken pooling",
        TRAIN,
        "sentence_bert_config.json: expected JSON",
        put("model/sentence_bert_config.json", "{"),
    ),
    Wrong(
        "max_length above the model's",
        f"{CHECK} max_length=65",
        "the model takes at most 64 tokens, found 65",
    ),
    Wrong("max_length of 1", f"{CHECK} max_length=1", "expected more than the 2 special tokens"),
    Wrong("max_length of 0", f"{CHECK} max_length=0", "max_length: expected an integer > 0 or null"),
]
