"""Where a home or a box is: a street with its number and what follows it, in English and Chinese
(and the commonest forms of German, French, Italian and Spanish).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

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
    r"approach|reach|marg|nagar|cross|colony|layout|sector|enclave|extension|chowk|bazaar)"
)
_SURE_KIND = (
    r"(?:street|avenue|ave|road|rd|lane|ln|drive|boulevard|blvd|court|terrace|crescent|close|"
    r"parkway|"
    r"pkwy|highway|hwy|gardens|mews|square|grove|place|circle|st|dr|way|row|alley|trail|plaza|quay)"
)
_NAME_WORD = r"(?:[A-Z0-9][\w'.-]*|of|the|and|de|la|del|los|las|St\.|Mt\.|[A-Z]\.)"
_DIRECTION = (
    r"(?:[NSEW]\.?|[NS][EW]\.?|North|South|East|West|Northeast|Northwest|Southeast|Southwest)"
)
_NUMBER = r"(?:No\.? ?)?\d{1,6}(?:[-/]\d{1,5})?(?: ?[A-Za-z](?![A-Za-z]))?(?: ?½| 1/2)?"
_UNIT_WORD = (
    r"(?:apartment|apt|appt|suite|ste|unit|flat|floor|fl|room|rm|bldg|building|tower|block|blk|lot|"
    r"trailer|box|door|level|lvl|office|studio|house|penthouse|ph|spc|space|dept|wing|entrance)"
)
_UNIT = (
    rf"(?:{_UNIT_WORD}\.? ?#? ?(?:[A-Z]?\d+[A-Za-z]?(?:[-/]\d+)?|[A-Z](?![A-Za-z])|One|Two|Three)"
    r"|#\s?[A-Z]?\d+[A-Za-z]?(?:-\d+)?|\d{1,3}(?:st|nd|rd|th) (?:floor|fl)"
    r"|(?:ground|top|first|second|third|fourth|fifth|basement|rear|upper|lower) (?:floor|flat|"
    r"unit|apartment))"
)
_STREET = re.compile(
    rf"(?<![\w.$€£#/-]){_NUMBER},? (?:{_DIRECTION} )?"
    rf"(?:(?:{_NAME_WORD}[ \n]){{1,4}}(?i:{_KIND})\b\.?(?: (?:{_DIRECTION}|Extension|Ext)\b\.?)?"
    rf"|(?:\d{{1,3}}(?:st|nd|rd|th)|[A-Z][a-z]+th|First|Second|Third) (?i:{_KIND})\b\.?(?: "
    rf"{_DIRECTION}\b)?"
    rf"|(?i:avenue) (?:of the \w+|[A-Z]\b|\w+)|(?:{_DIRECTION} )?Broadway\b|Rural Route \d+"
    rf"|(?:US |State |County |Old |FM )?(?i:highway|hwy|route|rte|county road|state road|"
    rf"interstate|cr|sr|fm) \d+\w?"
    rf"|(?:El|La|Las|Los|Via|Calle|Camino|Paseo|Rue|Avenida)(?: [A-Z]\w+| de| la| del| los){{1,4}})"
)
_LOWER_STREET = re.compile(
    rf"(?<![\w.$€£#/-]){_NUMBER} (?:(?:[nsew]\.?|north|south|east|west) )?(?:[a-z'][a-z'.-]+ ){{1,"
    rf"3}}?"
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
    r"(?<![A-Za-z])(?:P\.? ?O\.? ?Box|Post Office Box|GPO Box|Locked Bag|Private Bag|PMB|POB)[ "
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
    r" (?:(?:de|del|della|delle|dei|di|da|do|dos|la|las|los|el|San|Santa|Santo|d')[ "
    r"]?)*[A-ZÀ-Ž][\wà-ž'-]*(?:[ -](?:de |del |y )?[A-ZÀ-Ž][\wà-ž'-]*){0,3}"
    r",? (?:n\.?º ?|nº ?|n\. ?|№ ?)?\d{1,4}(?: ?[a-zA-Z](?![a-zA-Z]))?(?:[,-] ?\d{1,2}(?:º|°|o)? "
    r"?\w?(?![\w]))?"
)
_STATE = (
    r"(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|PR|RI|"
    r"S[CD]|"
    r"T[NX]|UT|V[AT]|W[AIVY]|ON|QC|BC|AB|MB|SK|NS|NB|NL|PE|NSW|VIC|QLD|WA|SA|TAS|ACT|NT)"
)
_STATE_NAME = (
    r"(?:Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia|"
    r"Hawaii|"
    r"Idaho|Illinois|Indiana|Iowa|Kansas|Kentucky|Louisiana|Maine|Maryland|Massachusetts|Michigan|"
    r"Minnesota|"
    r"Mississippi|Missouri|Montana|Nebraska|Nevada|New Hampshire|New Jersey|New Mexico|New York|"
    r"North Carolina|"
    r"North Dakota|Ohio|Oklahoma|Oregon|Pennsylvania|Rhode Island|South Carolina|South Dakota|"
    r"Tennessee|Texas|"
    r"Utah|Vermont|Virginia|Washington|West Virginia|Wisconsin|Wyoming|Ontario|Quebec|British "
    r"Columbia|Alberta)"
)
_COUNTRY = (
    r"(?:USA|U\.S\.A\.|US|UK|U\.K\.|United States|United Kingdom|England|Scotland|Wales|Ireland|"
    r"Canada|Australia|"
    r"New Zealand|Germany|France|Italy|Spain|Netherlands|Singapore|India|China|Japan|Switzerland|"
    r"Austria|Belgium|"
    r"Sweden|Norway|Denmark|Finland|Poland|Portugal|Brazil|Mexico|South Africa|Nigeria|Kenya|Hong "
    r"Kong|PRC)"
)
_ZIP = (
    r"(?:\d{5}(?:-\d{4})?|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|[A-Z]\d[A-Z] ?\d[A-Z]\d|\d{4} "
    r"?[A-Z]{2}|\d{3} ?\d{2,3}|\d{2}-\d{3}|\d{5}-\d{3}|[A-Z]\d[\dW] ?[A-Z\d]{4}|\d{4})(?![\w-])"
)
_TOWN = (
    r"(?:(?!(?:and|but|or|I|We|He|She|They|The|Please|Call|Tel|Phone|Email|Thanks|If|It|My|Mr|Mrs|"
    r"Ms|Dr|Attn)\b)"
    r"[A-ZÀ-Ž][\wÀ-ž'.-]*(?:[ -](?:upon|on|in|le|la|am|an der|de|of|der|sur|under|the|"
    r"[A-ZÀ-Ž][\wÀ-ž'-]*)){0,3})"
)
_BREAK = r"(?:\s*,\s*|\s*\n\s*|\s*;\s*|\s+[-–·|]\s+)"
_FOREIGN_UNIT = (
    r"(?:(?:apto?|apartado|piso|planta|Etage|étage|Stock|Whg|Wohnung|int|interno|scala|bât|Top|Tür|"
    r"m|lok|Col|kv)\.? ?[\w./ºª-]{1,8}|\d{1,2}(?:º|ª|°|\. Stock|\. Etage|\. OG|e étage)(?: ?\w)?)"
)
_TAIL = re.compile(
    rf"(?:(?:{_BREAK}|\s)(?i:{_UNIT})(?![\w])|(?:/\d{{1,4}}){{1,3}}(?!\w)"
    rf"|{_BREAK}{_FOREIGN_UNIT}(?![\w])"
    rf"|(?:{_BREAK}|\s){_ZIP} {_TOWN}(?=[,.;:!?\n)]|$| [a-z(])"
    rf"|(?:{_BREAK}|\s)(?:in )?(?:{_TOWN}(?:,\s*|\s+))?(?:{_STATE_NAME}|{_STATE}\.?)(?:,"
    rf"?\s+{_ZIP}|(?![\w]))"
    rf"|(?:{_BREAK}|\s){_ZIP}"
    rf"|(?:{_BREAK}|\s)(?:the )?{_COUNTRY}(?![\w])"
    rf"|{_BREAK}{_TOWN},?\s+{_ZIP}|\s(?:in\s)?{_TOWN}(?=[,.;:!?\n)]|$|\s+\d)"
    rf"|,\s*{_TOWN}(?=\s*[,.;:!?\n)]|\s*$|\s+[a-z]+\b)"
    rf"|\n\s*{_TOWN}(?=,?\s*\n|,))"
)
_LOWER_TAIL = re.compile(
    rf",? {_UNIT}(?![\w])|,? [a-z]+(?: [a-z]+)?,? (?i:{_STATE})(?: \d{{5}})?(?![\w])|,? "
    rf"\d{{5}}(?![\w-])|(?:,? [a-z]+(?: [a-z]+)?)?,? [a-z]{{1,2}}\d[a-z\d]? ?\d[a-z]{{2}}(?![\w])"
    rf"|, (?!(?:please|thanks|thank|and|but|so|ok|okay|yes|no|right|you|it|we|he|she|they|i)\b)"
    rf"[a-z]{{4,}}(?: [a-z]{{4,}})?(?=[.!?,]|$)",
    re.IGNORECASE,
)


_SEGMENT = (
    r"(?:[A-Z0-9][\w'.#&/-]*(?: (?:[A-Z0-9][\w'.#&/-]*|of|the|upon|on|in|de|la|le|and)){0,5})"
)
_BY_CODE = re.compile(
    rf"(?<![\w])(?:{_SEGMENT}(?:,\s?|\n\s*)){{1,5}}?(?:{_TOWN}[ ,\n]{{1,2}})?(?:"
    rf"(?:{_STATE}|{_STATE_NAME})[ ,]{{1,2}}\d{{5}}(?:-\d{{4}})?"
    r"|[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}|\d{6}|[A-Z]\d[A-Z] \d[A-Z]\d|\d{3}-\d{4})(?![\w-])"
)
"""What ends in a postal code, its parts in capitals."""
_WITH_UNIT = re.compile(
    rf"(?<![\w.$€£#/-])\d{{1,5}}[A-Za-z]? (?:[A-Z][\w']+ ?){{1,3}}, (?i:{_UNIT})(?![\w])"
)
_SINGAPORE = re.compile(
    r"(?<!\w)(?:Blk|Block) \d{1,4}[A-Z]? (?:[A-Z][\w']+ ){1,4}(?:\d{1,3} ?)?,? ?(?:#\d{1,2}-\d{1,"
    r"4})?,? ?(?:Singapore(?: \d{6})?)?"
)
_NAMED_PLACE = (
    r"\b(?:Cottage|House|Rectory|Farm|Lodge|Barn|Villa|Manor|Vicarage|Mill|Grange|Hall|Lane|Road|"
    r"Street)\b"
)
_BEFORE = re.compile(
    rf"(?:\b(?i:{_UNIT_WORD}|shop|plot|km|gate|(?:h|d)\. ?no)\.? ?$|(?:(?i:{_UNIT})|"
    rf"(?:c/o )?(?:The )?(?:[A-Z][\w']+ ){{1,3}}(?:House|Court|Building|Tower|Mansions|"
    rf"Lodge|Plaza|Hall|Apartments|Centre|"
    r"Center|Block|Heights|Residences?|Flats|Works|Mill|Barn|Cottage|Farm|Garden|Gardens|Villas?|"
    rf"Arcade|Park)|\d{{1,3}}/F|\d{{1,3}}(?:st|nd|rd|th) Floor)\s?[,\n/] ?\s*)$"
)


_FIGURE = re.compile(r"(?:Table|Figure|Chapter|Section|Page|Version|Step) $", re.IGNORECASE)
_PATTERNS = (
    (_STREET, 0.8),
    (_BOX, 0.85),
    (_FOREIGN, 0.75),
    (_WITH_UNIT, 0.7),
    (_SINGAPORE, 0.7),
)


def addresses(text: str) -> Iterator[Span]:
    """Postal addresses and boxes, over their lines."""
    yield from chinese_addresses(text)
    for place in places(text):
        end = _tail(_TAIL, text, place.end)
        yield Span(_head(text, place.start), _without_dot(text, end), "ADDRESS", place.score)
    if any(map(str.isdigit, text)):
        for pattern, score in _PATTERNS:
            for found in pattern.finditer(text):
                if _FIGURE.search(text[max(0, found.start() - 10) : found.start()]):
                    continue
                end = _tail(_TAIL, text, found.end())
                yield Span(_head(text, found.start()), _without_dot(text, end), "ADDRESS", score)
        for found in _BY_CODE.finditer(text):
            if re.match(r"[^,\n]*\d", found[0]) or re.search(_NAMED_PLACE, found[0]):
                end = _tail(_TAIL, text, found.end())
                yield Span(found.start(), end, "ADDRESS", 0.7)
        for found in _LOWER_STREET.finditer(text):
            if not _NO_STREET_WORD.match(found[0]):
                end = _tail(_TAIL, text, found.end())
                end = _tail(_LOWER_TAIL, text, end)
                yield Span(found.start(), end, "ADDRESS", 0.65)


def _head(text: str, start: int) -> int:
    """Return where an address begins whose street begins at ``start``: flats and houses before."""
    for _ in range(4):
        begin = max(0, start - 60)
        found = _BEFORE.search(text[begin:start])
        if found is None:
            break
        start = begin + found.start()
    return start


def _without_dot(text: str, end: int) -> int:
    """Return the end of an address without the dot that ends a sentence."""
    word = re.search(r"(\w+)\.$", text[max(0, end - 24) : end])
    return end - 1 if word is not None and len(word[1]) > 4 else end


def _tail(pattern: re.Pattern[str], text: str, end: int) -> int:
    """Return where an address ends that is known up to ``end``."""
    for _ in range(6):
        found = pattern.match(text, end)
        if found is None:
            break
        end = found.end()
    return end
