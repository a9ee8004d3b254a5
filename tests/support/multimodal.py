"""A pico Gemma 3n that sees and hears, with its processor, made without the Hub."""

from pathlib import Path
from typing import Any

IMAGE_TOKENS = 256
AUDIO_TOKENS = 188

_CHAT = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image_soft_token>{% elif part['type'] == 'audio' %}"
    "<audio_soft_token>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

_SPECIAL = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "audio_token": "<audio_soft_token>",
    "boa_token": "<start_of_audio>",
    "eoa_token": "<end_of_audio>",
}


def write_seeing_and_hearing_parent(folder: Path, num_hidden_layers: int = 35) -> Path:
    """A random full Gemma 3n of E4B's layer structure, with all of a published one's side files.

    Its vision tower is MobileNetV5 at an eighth of its channels: 16 million parameters.
    """
    import torch
    from transformers import (
        Gemma3nAudioFeatureExtractor,
        Gemma3nConfig,
        Gemma3nForConditionalGeneration,
        Gemma3nProcessor,
        SiglipImageProcessor,
    )

    tokenizer = _tokenizer()
    words = len(tokenizer)
    text = {
        "vocab_size": words + 16,
        "vocab_size_per_layer_input": words,
        "hidden_size": 32,
        "hidden_size_per_layer_input": 4,
        "head_dim": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "laurel_rank": 2,
        "intermediate_size": [64] * num_hidden_layers,
        "num_hidden_layers": num_hidden_layers,
        "num_kv_shared_layers": 15,
        "sliding_window": 16,
        "max_position_embeddings": 1024,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "vocab_size": 8,
        "vocab_offset": words,
        "model_args": {"channel_multiplier": 0.125},
    }
    audio = {
        "hidden_size": 16,
        "conf_num_attention_heads": 2,
        "conf_num_hidden_layers": 2,
        "vocab_size": 8,
        "vocab_offset": words + 8,
        "sscp_conv_channel_size": [4, 2],
    }
    ids = tokenizer.convert_tokens_to_ids
    config = Gemma3nConfig(
        text_config=text,
        audio_config=audio,
        vision_config=vision,
        image_token_id=ids(_SPECIAL["image_token"]),
        boi_token_id=ids(_SPECIAL["boi_token"]),
        eoi_token_id=ids(_SPECIAL["eoi_token"]),
        audio_token_id=ids(_SPECIAL["audio_token"]),
        boa_token_id=ids(_SPECIAL["boa_token"]),
        eoa_token_id=ids(_SPECIAL["eoa_token"]),
    )
    torch.manual_seed(0)
    model: Any = Gemma3nForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.model.language_model.named_parameters():
            # Fresh models have altup.correct_output_scale = 0, which hides per-layer-input bugs.
            if name.endswith("correct_output_scale"):
                weight.normal_()
    model.save_pretrained(folder)
    processor = Gemma3nProcessor(
        Gemma3nAudioFeatureExtractor(),
        SiglipImageProcessor(
            size={"height": 64, "width": 64}, do_normalize=False, image_seq_length=IMAGE_TOKENS
        ),
        tokenizer,
        chat_template=_CHAT,
        audio_seq_length=AUDIO_TOKENS,
        image_seq_length=IMAGE_TOKENS,
    )
    processor.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    """Bytes as tokens, and the special tokens of a published one."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    special += _SPECIAL.values()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(token, special=True) for token in special])
    from_tokenizer: Any = PreTrainedTokenizerFast
    return from_tokenizer(
        tokenizer_object=fast,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens=dict(_SPECIAL),
    )
