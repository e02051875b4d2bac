"""Where a home or a box is: a street with its number and what follows it, in English and Chinese
(and the commonest forms of German, French, Italian and Spanish).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmos.data.pii.address_parts import STATE, STATE_NAME, TOWN, UNIT, head, tail
from llmos.data.pii.addresses_zh import chinese_addresses
from llmos.data.pii.places_en import places
from llmos.data.pii.spans import Span

_KIND = (
    r"(?:street|str|st|avenue|ave?|road|rd|lane|ln|drive|dr|boulevard|blvd|court|ct|place|pl|way|"
    r"terrace|terr?|circle|cir|crescent|cres|close|square|sq|parkway|pkwy|highway|hwy|trail|trl|"
    r"row|mews|gardens?|gdns|grove|walk|hill|rise|alley|plaza|loop|path|pike|turnpike|esplanade|"
    r"parade|quay|wharf|green|mount|view|vale|heights|ridge|run|bend|crossing|cove|commons?|"
    r"broadway|bypass|causeway|expressway|freeway|route|rte|park|gate|hollow|landing|meadows?|"
    r"pass|point|ranch|spring|station|summit|vista|yard|estate|strand|embankment|promenade|wynd|"
    r"end|field|fields|bank|side|croft|drove|brae|passage|arcade|chase|dell|glen|glade|orchard|"
    r"approach|reach|marg|nagar|cross|colony|layout|sector|enclave|extension|chowk|bazaar|"
    r"paddocks?|lea|knoll|spur|mall|shores?|isle|manor|mills?|overlook|pines|trace|track|valley|"
    r"villas?|village|circuit|cct|reserve|strip|cottages|houses|buildings|mansions|lodge|woods?|"
    r"ridgeway|oaks|acres|downs|hollows|cloisters|parklands|motorway|backs?|market place)"
)
_SURE_KIND = (
    r"(?:street|avenue|ave|road|rd|lane|ln|drive|boulevard|blvd|court|terrace|crescent|close|"
    r"parkway|"
    r"pkwy|highway|hwy|gardens|mews|square|grove|place|circle|st|dr|way|row|alley|trail|plaza|quay)"
)
_SURE_KIND_CAPITAL = (
    r"(?:Street|Avenue|Ave|Road|Rd|Lane|Drive|Boulevard|Blvd|Court|Terrace|Crescent|Close|Parkway|"
    r"Highway|Gardens|Mews|Square|Grove|Place|Circle|St|Dr|Way|Row|Alley|Trail|Plaza|Quay|Hill|"
    r"Park|Walk|Rise|View)"
)
_NAME_WORD = r"(?:[A-Z0-9][\w'.-]*|of|the|and|de|la|del|los|las|St\.|Mt\.|[A-Z]\.)"
_DIRECTION = (
    r"(?:[NSEW]\.?|[NS][EW]\.?|North|South|East|West|Northeast|Northwest|Southeast|Southwest)"
)
_NUMBER = r"(?:No\.? ?)?\d{1,6}(?:[-/]\d{1,5})?(?: ?[A-Za-z](?![A-Za-z]))?(?: ?½| 1/2)?"
_STREET = re.compile(
    rf"(?<![\w.$€£#/-]){_NUMBER},? (?:{_DIRECTION} )?"
    rf"(?:(?:{_NAME_WORD}[ \n]){{1,4}}(?i:{_KIND})\b\.?(?: (?:{_DIRECTION}|Extension|Ext)\b\.?)?"
    rf"|(?:\d{{1,3}}(?:st|nd|rd|th)|[A-Z][a-z]+th|First|Second|Third) (?i:{_KIND})\b\.?(?: "
    rf"{_DIRECTION}\b)?"
    rf"|(?i:avenue) (?:of the \w+|[A-Z]\b|\w+)|(?:{_DIRECTION} )?Broadway\b|Rural Route \d+"
    rf"|(?:US|I|SR|CR|FM|RM)-\d{{1,4}}"
    rf"|(?:US |State |County |Old |FM )?(?i:highway|hwy|route|rte|county road|state road|"
    rf"interstate|cr|sr|fm) \d+\w?"
    rf"|(?:El|La|Las|Los|Via|Calle|Camino|Paseo|Rue|Avenida)(?: [A-Z]\w+| de| la| del| los){{1,4}})"
)
_LOWER_STREET = re.compile(
    rf"(?<![\w.$€£#/-]){_NUMBER} (?:(?:[nsew]\.?|north|south|east|west) )?(?:[a-z'][a-z'.-]+ ){{1,"
    rf"5}}?"
    rf"{_SURE_KIND}\b\.?(?=[ ,.;\n]|$)",
    re.IGNORECASE,
)
_NO_STREET_WORD = re.compile(
    r"^\S+ (?:.*\b)?(?:minutes?|mins?|hours?|days?|weeks?|months?|years?|km|kms|miles?|metres?|"
    r"meters?|"
    r"people|men|women|of|in|on|to|for|from|by|my|your|his|her|our|their|this|that|is|are|was|were|"
    r"and|or|with|per|cars?|houses?|shops?|percent|dollars?|pm|am|a\.m|p\.m|more|other|new|at|"
    r"blocks?|"
    r"kids?|times?|steps?|ways|it|we|they|you|i|who|which|right|left|different|separate|did|do)\b",
    re.IGNORECASE,
)
_BOX = re.compile(
    r"(?<![A-Za-z])(?:P\.? ?O\.? ?Box|Post Office Box|GPO Box|Locked Bag|Private Bag|PMB|POB"
    r"|P\.O\.B\.?)[ "
    r"#]{1,2}[A-Z]?\d{1,7}"
    r"(?:-\d+)?",
    re.IGNORECASE,
)
_FOREIGN = re.compile(
    r"(?<![\w])(?:[A-ZÄÖÜ][\wäöüßÄÖÜ.-]*(?:straße|strasse|str\.|weg|platz|allee|gasse|ufer|damm|"
    r"ring|gracht|straat|laan|"
    r"kade|plein|gatan|vägen|vej|gade|veien|gata|katu|tie|utca|utja)"
    r"|(?:[A-ZÄÖÜ][\wäöüß-]+ ){1,3}(?:Straße|Strasse|Str\.|Weg|Platz|Allee|Ring|Ufer|Damm))[ "
    r"]\d{1,4} ?[a-zA-Z]?(?![\w])"
    r"|(?<![\w])\d{1,4}(?: ?(?:bis|ter))?,? (?:rue|avenue|av\.|boulevard|bd|place|allée|chemin|"
    r"impasse|quai|cours|route)"
    r" (?:(?:de|du|des|la|le|les|l'|d'|Saint|St)[ -]?)*[A-ZÉÈ][\wéèêàôîç'-]*(?:[ -](?:de |du |des "
    r"|la )*[A-ZÉÈ][\wéèêàôîç'-]*){0,3}"
    r"|(?<![\w])(?:Via|Viale|Piazza|Corso|Vicolo|Calle|Avenida|Av\.|Paseo|Plaza|Carrer|Rua|Praça|"
    r"Ulica|ul\.|ulitsa|Calea|Strada)"
    r" (?:(?:de|del|della|delle|dei|di|da|das|do|dos|la|las|los|el|San|Santa|Santo|d')[ "
    r"]?)*[A-ZÀ-Ž][\wà-ž'-]*(?:[ -](?:de |del |y )?[A-ZÀ-Ž][\wà-ž'-]*){0,3}"
    r",? (?:n\.?º ?|nº ?|n\. ?|№ ?)?\d{1,4}(?: ?[a-zA-Z](?![a-zA-Z]))?(?:[,-] ?\d{1,2}(?:º|°|o)? "
    r"?\w?(?![\w]))?"
)
_SEGMENT = (
    r"(?:(?!(?:Dear|Hi|Hello|Please|My|Our|Her|His|I|We|She|He|It|Send|Mail|Post|Return|Ship|To|Re|"
    r"Address|The address)\b)[A-ZÀ-Ž0-9][\wÀ-žŵŷ'.#&/-]*"
    r"(?: (?:[A-ZÀ-Ž0-9][\wÀ-žŵŷ'.#&/-]*|of|the|upon|on|in|de|la|le|and|y|yr)){0,5})"
)
_SEGMENTS = rf"(?<![\w])(?:{_SEGMENT}(?:,\s?|\n\s*)){{1,6}}?(?:{TOWN}[ ,\n]{{1,2}})?"
_BY_HOUSE_CODE = re.compile(
    rf"{_SEGMENTS}(?:[A-Z]{{1,2}}\d[A-Z\d]? \d[A-Z]{{2}}|[A-Z]\d[A-Z] \d[A-Z]\d|"
    r"[A-Z]\d[\dW] [A-Z\d]{4})(?![\w-])"
)
"""What ends in a postal code of few houses, its parts in capitals."""
_BY_TOWN_CODE = re.compile(
    rf"{_SEGMENTS}(?:(?:{STATE}|{STATE_NAME})[ ,]{{1,2}}\d{{4,5}}(?:-\d{{4}})?|\d{{6}}|"
    r"\d{3}-\d{4})(?![\w-])"
)
"""What ends in a postal code of a town: an address where a number or the name of a house begins."""
_WITH_UNIT = re.compile(
    rf"(?<![\w.$€£#/-])\d{{1,5}}[A-Za-z]? (?:[A-Z][\w']+ ?){{1,3}}, (?i:{UNIT})(?![\w])"
)
_CAPITALS = r"(?:[A-ZÀ-Ž][\wÀ-ž'.-]+(?: [A-Za-zÀ-ž][\wÀ-ž'.-]+){0,3})"
_CONTINENTAL = re.compile(
    rf"(?<![\w])(?:Avenue |Av\.? |Place |Rue )?{_CAPITALS},? \d{{1,4}}(?:[a-z]"
    rf"|(?: [A-Z])?(?: \d{{1,3}}))?"
    rf"(?:, [\wº°ª.]{{1,6}}(?: [\w.]{{1,4}})?){{0,2}}, (?:(?:[A-Z]{{1,2}}-)?(?:\d{{4,5}}"
    rf"|\d{{3}} \d{{2}}) {_CAPITALS}"
    rf"(?: [A-Z0-9](?!\w))?|{_CAPITALS} (?:\d{{3}} \d{{2}}|\d{{4,6}}))(?!\w)"
)
"""A street, its number, and a code beside a town, of whatever language."""
_IN_PARTS = re.compile(
    rf"(?<![\w.$€£#/:-])\d{{1,4}}(?:/\d{{1,3}})? (?:[A-ZÀ-Ž][\wÀ-ž'.-]+ ?){{1,4}}(?: ?\d{{1,3}})?, "
    rf"(?:(?:District|Quận|Ward|Zone|Barangay|Khu|Block|Phase|Sector) \w{{1,4}}, {_CAPITALS}"
    rf"|{_CAPITALS} \d{{5}})(?!\w)"
)
_SINGAPORE = re.compile(
    r"(?<!\w)(?:Blk|Block) \d{1,4}[A-Z]? (?:[A-Z][\w']+ ){1,4}(?:\d{1,3} ?)?,? ?(?:#\d{1,2}-\d{1,"
    r"4})?,? ?(?:Singapore(?: \d{6})?)?"
)
_TOLD = re.compile(
    r"(?:^|[,\n]\s*)((?=[^,\n]*\d[^,\n]*[,\n])[^,\n]+|[^,\n]*\b(?:Cottage|House|Rectory|Farm"
    r"|Lodge|Barn|Villa|"
    r"Manor|Vicarage|Mill|Grange|Hall|Lane|Road|Street)\b)"
)
"""The first part of an address that has a number, or is a house or a street."""
_ONES = "one|two|three|four|five|six|seven|eight|nine"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_TEENS = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_BELOW_100 = rf"(?:(?:{_TENS})(?:[ -](?:{_ONES}))?|{_TEENS}|{_ONES})"
_NUMBER_IN_WORDS = re.compile(
    rf"(?<![\w-])(?i:(?:(?:a|{_ONES}) (?:hundred|thousand)(?:(?: and)? {_BELOW_100})?|{_BELOW_100}"
    rf"(?: (?:oh )?{_BELOW_100})?)) (?:{_NAME_WORD} ){{1,3}}(?:{_SURE_KIND_CAPITAL}|Yard"
    rf"|Cottages|Wynd|Wharf|Green)\b\.?"
)


_FIGURE = re.compile(r"(?:Table|Figure|Chapter|Section|Page|Version|Step) $", re.IGNORECASE)
_PATTERNS = (
    (_STREET, 0.8),
    (_BOX, 0.85),
    (_FOREIGN, 0.75),
    (_WITH_UNIT, 0.7),
    (_SINGAPORE, 0.7),
    (_CONTINENTAL, 0.65),
    (_IN_PARTS, 0.65),
)


def addresses(text: str) -> Iterator[Span]:
    """Postal addresses and boxes, over their lines."""
    yield from chinese_addresses(text)
    for place in places(text):
        yield Span(head(text, place.start), tail(text, place.end), "ADDRESS", place.score)
    for found in _NUMBER_IN_WORDS.finditer(text):
        yield Span(head(text, found.start()), tail(text, found.end()), "ADDRESS", 0.65)
    if any(map(str.isdigit, text)):
        for pattern, score in _PATTERNS:
            for found in pattern.finditer(text):
                if not _FIGURE.search(text[max(0, found.start() - 10) : found.start()]):
                    start, is_lower = head(text, found.start()), found[0].islower()
                    yield Span(start, tail(text, found.end(), is_lower=is_lower), "ADDRESS", score)
        for pattern in (_BY_HOUSE_CODE, _BY_TOWN_CODE):
            for found in pattern.finditer(text):
                told = _TOLD.search(found[0])
                if told is not None or pattern is _BY_HOUSE_CODE:
                    start = found.start() + (told.start(1) if told else 0)
                    yield Span(start, tail(text, found.end()), "ADDRESS", 0.7)
        for found in _LOWER_STREET.finditer(text):
            if not _NO_STREET_WORD.match(found[0]):
                end = tail(text, found.end(), is_lower=True)
                yield Span(head(text, found.start()), end, "ADDRESS", 0.65)
