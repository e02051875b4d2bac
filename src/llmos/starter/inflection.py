"""Word forms for slot filling: English inflection, Chinese measure words and aspect.

Only what the starter templates need. A word's own `extra` column always wins over a rule.
"""

from collections.abc import Callable, Mapping

VOWELS = "aeiou"

# base, past, participle (left out where it equals the past); one verb a semicolon.
IRREGULAR_VERBS = """
be was been; become became become; begin began begun; break broke broken; bring brought;
build built; buy bought; catch caught; choose chose chosen; come came come; cost cost; cut
cut; do did done; draw drew drawn; drink drank drunk; drive drove driven; eat ate eaten;
fall fell fallen; feed fed; feel felt; find found; fly flew flown; forget forgot forgotten;
get got; give gave given; go went gone; grow grew grown; hang hung; have had; hear heard;
hold held; hurt hurt; keep kept; know knew known; lead led; leave left; lend lent; lose
lost; make made; mean meant; meet met; pay paid; put put; read read; ride rode ridden; ring
rang rung; run ran run; say said; see saw seen; sell sold; send sent; set set; show showed
shown; sing sang sung; sit sat; sleep slept; speak spoke spoken; spend spent; stand stood;
steal stole stolen; sweep swept; swim swam swum; take took taken; teach taught; tell told;
think thought; throw threw thrown; understand understood; wake woke woken; wear wore worn;
win won; write wrote written
"""
PRINCIPAL_PARTS: Mapping[str, tuple[str, str]] = {
    verb: (parts[0], parts[-1]) for verb, *parts in map(str.split, IRREGULAR_VERBS.split(";"))
}
# Verbs that double their last letter.
DOUBLED_VERBS = """
begin; chat; cut; drop; forget; get; hug; jog; mop; plan; put; rub; run; set; shop; sit; skip; stop;
swim; trip; win
"""
DOUBLED = frozenset(map(str.strip, DOUBLED_VERBS.split(";")))
SILENT_H = ("hour", "honest", "honor")
CONSONANT_U = ("uni", "use", "usu", "euro", "one")


def with_article(phrase: str) -> str:
    """`phrase` after "a" or "an", by the sound it most likely begins with."""
    lower = phrase.lower()
    vowel = lower[0] in VOWELS and not lower.startswith(CONSONANT_U)
    return ("an " if vowel or lower.startswith(SILENT_H) else "a ") + phrase


def add_s(word: str) -> str:
    """The plural of a regular noun, or the third person of a regular verb."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in VOWELS:
        return word[:-1] + "ies"
    return word + "s"


def _verb_s(verb: str) -> str:
    return {"be": "is", "have": "has", "do": "does", "go": "goes"}.get(verb) or add_s(verb)


def _verb_ed(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in VOWELS:
        return verb[:-1] + "ied"
    return verb + (verb[-1] if verb in DOUBLED else "") + "ed"


def _verb_past(verb: str) -> str:
    return PRINCIPAL_PARTS[verb][0] if verb in PRINCIPAL_PARTS else _verb_ed(verb)


def _verb_done(verb: str) -> str:
    return PRINCIPAL_PARTS[verb][1] if verb in PRINCIPAL_PARTS else _verb_ed(verb)


def _verb_ing(verb: str) -> str:
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "be", "ye", "oe")):
        return verb[:-1] + "ing"
    return verb + (verb[-1] if verb in DOUBLED else "") + "ing"


VERB_FORMS: Mapping[str, Callable[[str], str]] = {
    "s": _verb_s,
    "past": _verb_past,
    "done": _verb_done,
    "ing": _verb_ing,
}

# What follows a subject, by its agreement (extra's agr): 1 = I, 2 = you/we/they and plurals,
# 3 = he/she/it and singular nouns.
AUXILIARIES: Mapping[str, Mapping[str, str]] = {
    "be": {"1": "am", "2": "are", "3": "is"},
    "was": {"1": "was", "2": "were", "3": "was"},
    "do": {"1": "do", "2": "do", "3": "does"},
    "have": {"1": "have", "2": "have", "3": "has"},
}


def english(phrase: str, extra: Mapping[str, str], form: str) -> str | None:
    """`phrase` in `form`; None when English has no such form.

    a: after a/an.  pl: plural.  any: generic (plural, or the base of a mass noun).
    s, past, done, ing: of the phrase's first word.  er, est: comparison.
    be, was, do, have: the auxiliary after it.  poss, obj: as possessor and object.
    cap: with a capital.
    """
    if form in extra:
        return extra[form]
    if form in VERB_FORMS:
        verb, *rest = phrase.split(" ")
        return " ".join([VERB_FORMS[form](verb), *rest])
    if form in AUXILIARIES:
        return AUXILIARIES[form][extra.get("agr", "3")]
    if form in ("pl", "any"):
        if form == "any" and "pl" in extra:
            return phrase if "mass" in extra else extra["pl"]
        return phrase if "mass" in extra else add_s(phrase)
    if form == "est":
        return extra["er"][:-1] + "st" if "er" in extra else "most " + phrase
    rules: Mapping[str, Callable[[], str]] = {
        "a": lambda: with_article(phrase),
        "er": lambda: "more " + phrase,
        "poss": lambda: (
            phrase + ("'" if phrase.endswith("s") and extra.get("agr") == "2" else "'s")
        ),
        "obj": lambda: phrase,
        "cap": lambda: phrase[:1].upper() + phrase[1:],
    }
    return rules[form]() if form in rules else None


def chinese(phrase: str, extra: Mapping[str, str], form: str) -> str | None:
    """`phrase` in `form`; None when Chinese has no such form.

    a: 一 + measure word + noun.  cl: the measure word (个 unless extra says cl).
    neg: an adjective denied.
    le, guo: 了 or 过 after the verb, which is extra's v or else the first character.
    """
    if "zh_" + form in extra:
        return extra["zh_" + form]
    if form == "cl":
        return extra.get("cl", "个")
    if form == "a":
        return "一" + extra.get("cl", "个") + phrase
    if form == "neg":
        return ("没" if phrase.startswith("有") else "不") + phrase
    if form in ("le", "guo"):
        verb = extra.get("v", phrase[:1])
        return verb + {"le": "了", "guo": "过"}[form] + phrase.removeprefix(verb)
    return None
