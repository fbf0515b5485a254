"""Read token counts under the names of several providers, and merge those of several chunks."""

from collections.abc import Iterable, Iterator, Mapping

from pathors_agent.messages import JSONValue, Usage

Path = tuple[str, ...]

# OpenAI's name first; then Anthropic's and OpenAI's newer API, Gemini's, Bedrock's, and Ollama's.
_PROMPT: tuple[Path, ...] = (
    ("prompt_tokens",),
    ("input_tokens",),
    ("promptTokenCount",),
    ("prompt_token_count",),
    ("inputTokens",),
    ("promptTokens",),
    ("prompt_eval_count",),
)
_COMPLETION: tuple[Path, ...] = (
    ("completion_tokens",),
    ("output_tokens",),
    ("outputTokens",),
    ("completionTokens",),
    ("eval_count",),
)
# Gemini counts the reasoning separately from the answer.
_CANDIDATES: tuple[Path, ...] = (("candidatesTokenCount",), ("candidates_token_count",))
_THOUGHTS: tuple[Path, ...] = (("thoughtsTokenCount",), ("thoughts_token_count",))
_TOTAL: tuple[Path, ...] = (
    ("total_tokens",),
    ("totalTokenCount",),
    ("total_token_count",),
    ("totalTokens",),
)
_CACHED: tuple[Path, ...] = (
    ("prompt_tokens_details", "cached_tokens"),
    ("prompt_token_details", "cached_tokens"),  # Mistral
    ("input_tokens_details", "cached_tokens"),
    ("prompt_cache_hit_tokens",),  # DeepSeek
    ("cached_tokens",),  # Moonshot
    ("num_cached_tokens",),  # Mistral
    ("cache_read_input_tokens",),  # Anthropic
    ("cachedContentTokenCount",),
    ("cached_content_token_count",),
    ("cacheReadInputTokens",),  # Bedrock
)
_REASONING: tuple[Path, ...] = (
    ("completion_tokens_details", "reasoning_tokens"),
    ("output_tokens_details", "reasoning_tokens"),
    ("reasoning_tokens",),
    *_THOUGHTS,
)
# Anthropic and Bedrock count cached tokens separately from the other input tokens.
_BESIDE_INPUT: tuple[tuple[Path, ...], ...] = (
    (("cache_read_input_tokens",), ("cacheReadInputTokens",)),
    (("cache_creation_input_tokens",), ("cacheWriteInputTokens",)),
)
_COUNTS_CACHED_BESIDE = ("input_tokens", "inputTokens")
_PLACES = ("usage", "usageMetadata", "usage_metadata")


def usages_of(chunk: Mapping[str, JSONValue]) -> Iterator[Mapping[str, JSONValue]]:
    """Yield the usage objects of a chunk or completion: its own, Groq's, and those of its choices."""
    choices = chunk.get("choices")
    holders = [*(choices if isinstance(choices, list) else ()), chunk.get("x_groq"), chunk]
    for holder in holders:
        if isinstance(holder, dict) and not holder.keys().isdisjoint(_PLACES):
            for place in _PLACES:
                if isinstance(usage := holder.get(place), dict):
                    yield usage


def read_usage(usage: Mapping[str, JSONValue]) -> Usage:
    """Read a usage object; a count that is missing, null, negative or not a number is unknown.

    A total that is missing or zero is the sum of the other two.
    """
    prompt, completion = _prompt(usage), _completion(usage)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=_count(usage, _TOTAL) or _sum(prompt, completion),
        cached_tokens=_count(usage, _CACHED),
        reasoning_tokens=_count(usage, _REASONING),
    )


def merged_usage(earlier: Usage | None, usage: Usage) -> Usage:
    """Return an earlier usage updated by a later one, whose counts replace it unless they are zero.

    Counts are never added up: servers that send a usage with each chunk count from the start.
    """
    if earlier is None:
        return usage
    merged = {
        name: getattr(usage, name) or _either(getattr(earlier, name), getattr(usage, name))
        for name in Usage.model_fields
    }
    was_sum = earlier.total_tokens in (None, _sum(earlier.prompt_tokens, earlier.completion_tokens))
    if was_sum and not usage.total_tokens:
        total = _sum(merged["prompt_tokens"], merged["completion_tokens"])
        merged["total_tokens"] = _either(total, merged["total_tokens"])
    return Usage(**merged)


def _prompt(usage: Mapping[str, JSONValue]) -> int | None:
    prompt = _count(usage, _PROMPT)
    counts_beside = any(name in usage for name in _COUNTS_CACHED_BESIDE)
    if prompt is None or not counts_beside or "prompt_tokens" in usage:
        return prompt
    return prompt + sum(_count(usage, paths) or 0 for paths in _BESIDE_INPUT)


def _completion(usage: Mapping[str, JSONValue]) -> int | None:
    completion = _count(usage, _COMPLETION)
    candidates, thoughts = _count(usage, _CANDIDATES), _count(usage, _THOUGHTS)
    if completion is not None or (candidates is None and thoughts is None):
        return completion
    return (candidates or 0) + (thoughts or 0)


def _count(usage: Mapping[str, JSONValue], paths: Iterable[Path]) -> int | None:
    """Return the first positive count under one of the names, else zero or None."""
    zero = None
    for path in paths:
        if path[0] in usage:  # most names are another provider's
            count = _at(usage, path)
            if count:
                return count
            zero = count if zero is None else zero
    return zero


def _at(usage: Mapping[str, JSONValue], path: Path) -> int | None:
    value: object = usage
    for name in path:
        # Decoded JSON; a check for the abstract class takes ten times as long.
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else None


def _sum(prompt: int | None, completion: int | None) -> int | None:
    return None if prompt is None or completion is None else prompt + completion


def _either(one: int | None, other: int | None) -> int | None:
    return other if one is None else one
