"""Names llmos' own operators; each is imported where it is used."""

from __future__ import annotations

from llmos.plugins.hookspecs import hookimpl

_HERE = "llmos.data.operators"


@hookimpl
def llmos_operators() -> dict[str, str]:
    """Return the dotted path of each operator by name."""
    return {
        "fix_text": f"{_HERE}.normalise:FixText",
        "unicode": f"{_HERE}.normalise:Unicode",
        "whitespace": f"{_HERE}.normalise:Whitespace",
        "control_characters": f"{_HERE}.normalise:ControlCharacters",
        "lower_case": f"{_HERE}.normalise:LowerCase",
        "stop_words": f"{_HERE}.stop_words:StopWords",
        "html_text": f"{_HERE}.markup:HtmlText",
        "chinese_script": f"{_HERE}.script:ChineseScript",
        "width": f"{_HERE}.script:Width",
        "punctuation": f"{_HERE}.script:Punctuation",
        "length": f"{_HERE}.filters:Length",
        "character_ratios": f"{_HERE}.filters:CharacterRatios",
        "regex_filter": f"{_HERE}.filters:RegexFilter",
        "gopher_quality": f"{_HERE}.gopher:GopherQuality",
        "gopher_repetition": f"{_HERE}.gopher:GopherRepetition",
        "c4_lines": f"{_HERE}.c4:C4Lines",
        "language": f"{_HERE}.language:Language",
        "blocklist": f"{_HERE}.language:Blocklist",
        "classifier_filter": f"{_HERE}.judged:ClassifierFilter",
        "perplexity_filter": f"{_HERE}.judged:PerplexityFilter",
        "distance_filter": f"{_HERE}.judged:DistanceFilter",
        "embed": f"{_HERE}.semantic:Embed",
        "semantic_dedup": f"{_HERE}.semantic:SemanticDedup",
        "exact_dedup": f"{_HERE}.dedup:ExactDedup",
        "minhash_dedup": f"{_HERE}.minhash:MinHashDedup",
        "url_dedup": f"{_HERE}.urls:UrlDedup",
        "line_dedup": f"{_HERE}.repeats:LineDedup",
        "substring_dedup": f"{_HERE}.substrings:SubstringDedup",
        "decontaminate": f"{_HERE}.decontaminate:Decontaminate",
        "anonymise": f"{_HERE}.anonymise:Anonymise",
        "k_anonymity": f"{_HERE}.k_anonymity:KAnonymity",
        "generalise": f"{_HERE}.generalise:Generalise",
        "sample": f"{_HERE}.shape:Sample",
        "conversations": f"{_HERE}.conversations:Conversations",
        "tokenize": f"{_HERE}.tokens:Tokenize",
        "pack": f"{_HERE}.tokens:Pack",
        "judged_answers": f"{_HERE}.feedback:JudgedAnswers",
        "sentences": f"{_HERE}.segment:Sentences",
        "words": f"{_HERE}.segment:Words",
        "eda": f"{_HERE}.eda:Eda",
        "noise": f"{_HERE}.noise:Noise",
        "back_translate": f"{_HERE}.rewriting:BackTranslate",
        "paraphrase": f"{_HERE}.rewriting:Paraphrase",
        "masked_words": f"{_HERE}.masked_words:MaskedWords",
        "entity_swap": f"{_HERE}.entity_swap:EntitySwap",
        "mix": f"{_HERE}.mixing:Mix",
        "label_check": f"{_HERE}.label_check:LabelCheck",
        "instruct": f"{_HERE}.instruct:Instruct",
        "preferences": f"{_HERE}.preferences:Preferences",
        "tag": f"{_HERE}.tagging:Tag",
        "parse": f"{_HERE}.parsing:Parse",
    }
