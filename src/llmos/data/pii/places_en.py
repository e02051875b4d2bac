"""Where somebody is found without a numbered street: corners, rooms, boxes of country roads, flats
of named houses, and what words like "my address is" lead to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmos.data.pii.spans import Span

KIND = (
    r"(?:Street|St|Avenue|Ave?|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Place|Pl|Way|"
    r"Highway|Hwy|Parkway|Pkwy|Terrace|Broadway|Crescent|Square|Sq|Alley|Row|Route|Rte)\b\.?"
)
_WORD = r"[A-Z][\w'.-]*"
_STREET = (
    rf"(?:(?:(?:[NSEW]\.?|North|South|East|West) )?(?:\d{{1,3}}(?:st|nd|rd|th)|{_WORD})"
    rf"(?: {_WORD}){{0,2}}?(?: {KIND})?)"
)
_SURE_STREET = (
    rf"(?:(?:(?:[NSEW]\.?|North|South|East|West) )?(?:\d{{1,3}}(?:st|nd|rd|th)|{_WORD}"
    rf"(?: {_WORD}){{0,2}}?) {KIND}|(?:Highway|Hwy|Route|Rte|(?:County|State) (?:Road|Rd|Route))"
    r"\.? \d{1,4}|Broadway)"
)
_BUILDING = (
    r"(?:Hall|Building|Bldg|House|Towers?|Cent(?:er|re)|Lab(?:oratory)?|Library|Dorm(?:itory)?|"
    r"Residences?|College|Apartments?|Apts|Court|Mansions?|Lodge|Plaza|Heights|Flats|Gardens?|"
    r"Place|Park|Estate|Quarters|Block|Villas?|Complex|Annexe?|Wing|Hotel|Inn|Hostel|Motel|"
    r"Condos?|Condominiums?|Lofts?|Suites|Manor|Pavilion|Hospital|Clinic|Residency|Enclave|Campus)"
)
_NAMED = rf"(?:(?:The )?(?:{_WORD} ){{1,4}}{_BUILDING}\b)"
_NUMBER = r"(?:No\.? ?)?#? ?(?:[A-Za-z]{1,2}-?)?\d[\w/.-]*(?<![.-])"
_UNIT = (
    r"(?:(?<!Table )(?i:room|rm\.?|office|suite|ste\.?|apartment|apt\.?|flat|unit|floor|level|"
    r"block|blk|"
    r"building|bldg\.?|tower|wing|door|house|plot|lot|shop|ward|bed|bay|desk|cabin|villa|gate|"
    r"phase|sector|street|house number|no\.)"
    rf" ?(?:{_NUMBER}|[A-Z](?![\w']))|(?:\d{{1,3}}(?:st|nd|rd|th) [Ff]loor|\d{{1,3}}/F\b))"
)
_SEGMENT = r"(?:[A-Z0-9#][\w'.#&/-]*(?: (?:[A-Z0-9#][\w'.#&/-]*|of|the|no\.?)){0,4})"
_PATTERNS = (
    rf"(?:(?i:(?:the )?(?:corner|intersection|junction|crossroads) of) {_STREET}"
    rf"(?: and | & | / |/){_STREET})(?![\w])",
    rf"(?<![\w]){_SURE_STREET}(?: and | & | / | @ | at |, corner of ){_SURE_STREET}(?![\w])",
    rf"(?<![\w]){_UNIT}(?:,| of| in|,? at)?(?: the)? {_NAMED}",
    rf"(?<![\w]){_NAMED},?(?: \(?{_UNIT}\)?| #?\d[\w-]{{0,5}}(?![\w:%]))",
    rf"(?<![\w])(?:Hotel|Hostel|Motel|Hospital) {_WORD}(?: {_WORD}){{0,2}},? {_UNIT}",
    rf"(?<![\w]){_UNIT}(?:, ?{_UNIT})+",
    r"(?<![\w])(?:R\.?R\.?|Rural Route|H\.?C\.?|Highway Contract|Star Route|PSC|Unit|CMR) ?#? ?"
    r"\d{1,5},? (?:Box|Bag) #?\d{1,6}[A-Za-z]?",
    r"(?<![\w])(?:R\.R\.|RR|RD|Rural Route|Rural Delivery|RMB|RSD) ?#? ?\d{1,4}(?=[,\n])",
    rf"(?<![\w])(?i:number|no\.?) \d{{1,4}}\w?,? (?:The )?(?:{_WORD} ){{0,3}}(?:{KIND}|Cottages?|"
    r"Villas?|Houses?|Buildings|Gardens|Mews|Close|Grove|Green|Hill|Walk|Park|Rise)\b",
    r"(?:(?<=at )|(?<=to )|(?<=from )|(?<=then )|(?<=in )|(?<=: )|(?<=, )|^)\d{1,4}[a-z]? The "
    r"(?:[A-Z][a-z]+ )?(?:Green|Avenue|Close|Paddocks?|Street|Grove|Hill|Park|Square|Crescent|"
    r"Mews|Terrace|Lane|Walk|Gardens|Drive|Parade|Promenade|Meadows?|Orchards?|Oaks|Elms|Limes|"
    r"Willows|Cedars|Beeches|Chestnuts|Poplars|Laurels|Firs|Pines|Birches|Maples|Glade|Dell|Ridge|"
    r"Heath|Common|Moorings|Maltings|Old [A-Z]\w+|Spinney|Copse|Quadrant|Cloisters|Ropewalk|"
    r"Broadway|Strand|Embankment|Esplanade|Bridle\w*|Croft|Rise|View|Cottages|Crossway|Shires)\b",
    r"(?<![\w])\d{1,4}(?:[/-]?[A-Z])?, (?:Street|St\.?|Road|Rd\.?|Lane|Gali|Sector|Block|Phase) "
    r"(?:No\.? ?)?[A-Z]?-?\d{1,3}(?:[/-][A-Z0-9]+)?",
    rf"(?<![\w])\d{{1,4}}[A-Z]?(?:[-/]\d{{1,4}})?,? (?:Jalan|Jln\.?|Jl\.?|Lorong|Lrg|Persiaran|"
    rf"Lebuh|Soi|Thanon|Calle|Đường|Phố|Rua|Via|Rue|Strada|Barangay|Brgy\.?) {_WORD}"
    rf"(?: {_WORD}){{0,3}}",
    rf"(?<![\w]){_UNIT}, \d{{1,5}}[A-Za-z]? (?:{_WORD})(?: {_WORD}){{0,3}}",
    rf"(?<![\w-])[A-Z]{{1,2}}-?\d{{1,4}}(?:/\d{{1,4}})?, (?:{_SEGMENT}, )*?(?:{_WORD} ){{0,3}}"
    r"(?:Nagar|"
    r"Vihar|Phase|Sector|Colony|Enclave|Apartments?|Society|Layout|Marg|Road|Puram|Bagh|Ganj|Block|"
    r"Extension|Floor|Kunj|Park)(?: (?:\d{1,3}|[IVX]{1,4}))?",
    rf"(?<![\w])(?:Sitio|Purok|Brgy\.?|Barangay|Kampung|Kg\.?|Desa|Dusun|Taman) {_SEGMENT}, "
    rf"{_SEGMENT}",
    rf"(?<![\w])(?i:km\.?|kilometre|mile) \d{{1,3}}(?:\.\d)?,? (?:{_WORD} ?){{1,4}}",
    rf"(?<![\w])(?:General Delivery|Poste Restante), {_SEGMENT}",
    rf"(?<![\w])(?:H\. ?No\.?|House No\.?|Flat No\.?|Plot(?: No\.?)?|Door No\.?|D\. ?No\.?|"
    rf"Shop(?: No\.?)?|House|KM|Lot|Villa) ?{_NUMBER}(?:, {_SEGMENT}){{1,6}}(?: ?- ?\d{{5,6}})?",
    r"(?<![\w])(?:Am|Im|An der|Auf der|Zum|Zur|In der|In den|Unter den|Hinter der|Bei der) "
    rf"{_WORD}(?: {_WORD})? \d{{1,3}} ?[a-z]?(?=,? \d{{4,5}} [A-ZÄÖÜ])",
    rf"(?<![\w])(?:{_WORD} ){{1,3}}(?:Cottage|House|Farm|Lodge|Barn|Villa|Manor|Rectory|Vicarage|"
    rf"Grange),"
    rf" (?:{_WORD} ){{1,3}}(?:Lane|Road|Street|Hill|Way|Close|Green|Drive|"
    rf"Row)(?:, {_WORD}(?: {_WORD}){{0,2}})?",
    rf"(?<![\w])(?:{_WORD} ){{1,3}}(?:Street|St\.|Road|Rd\.?|Avenue|Ave\.?|Lane|Boulevard|"
    rf"Blvd\.?),? (?:No\.? ?)?"
    r"\d{1,4}[A-Za-z]?(?![\w:%]|\.\d)",
    rf"(?<![\w])(?:One|Two|Three|Four|Five|Six|Seven|Eight|Nine|Ten|Eleven|Twelve|Twenty)(?:-\w+)? "
    rf"(?:{_WORD} ){{1,3}}{KIND}",
    r"(?<![\w])(?:Calle|Carrera|Cra\.?|Cl\.?|Kr\.?|Diagonal|Transversal|Av\.?|"
    r"Avenida) \d{1,3}[A-Za-z]?"
    r" ?(?:#|No\.?|n\.?º) ?\d{1,3}[A-Za-z]? ?-? ?\d{1,3}",
    rf"(?<![\w])\d{{1,4}}(?:-\d{{1,4}}){{0,2}},? {_WORD}(?:-(?:ro|gil|daero|dong|gu|cho|machi|ku|"
    rf"shi|dori))"
    rf"(?: {_WORD})?(?:, {_WORD}(?:-\w+)?){{0,3}}",
    rf"(?<![\w-])\d{{1,2}}-\d{{1,2}}-\d{{1,2}} {_WORD}(?:-\w+)?, {_WORD}(?:-\w+)?",
    rf"(?<![\w])(?:{_WORD} ){{1,3}}(?:Cad\.?|Caddesi|Sok\.?|Sokak|Sk\.|"
    rf"Mah\.?) ?(?:No ?[:.]? ?)?\d{{1,4}}(?:/\d+)?",
    rf"(?<![\w])#\d{{1,5}}[\w/-]*, (?:{_SEGMENT}, ?){{1,5}}{_SEGMENT}",
    r"(?<![\w])(?:ул\.?|улица|пр\.?|проспект|"
    r"пер\.?) ?[А-ЯЁ][\w.-]*(?: [А-ЯЁ][\w-]*)?,? (?:д\.? ?|дом )?\d{1,4}\w?"
    r"(?:,? (?:корп?\.? ?\d+,? )?кв\.? ?\d+)?",
    rf"(?<![\w])(?:Jalan|Jl\.|Jln\.?|Lorong|Lrg|Soi|Đường|Nguyen|Ngõ|Calz\.?|Col\.) {_WORD}"
    rf"(?: {_WORD}){{0,3}},?(?: No\.?)? \d{{1,4}}[A-Za-z]?",
)
PLACES: tuple[re.Pattern[str], ...] = tuple(map(re.compile, _PATTERNS))
"""Each an address by itself."""
_CODE = r"(?:\d{5}(?:-\d{4})?|[A-Za-z]{1,2}\d[A-Za-z\d]? ?\d[A-Za-z]{2}|[A-Za-z]\d[A-Za-z] ?\d[A-Za-z]\d|\d{4} ?[A-Z]{2}|\d{6}|\d{4})"  # noqa: E501
_POSTCODE = re.compile(
    r"(?<![\w])(?:zip(?: ?code)?|post ?code|postal ?code|pin ?code(?= is \d{6}| \d{6}|: ?\d{6}))"
    rf"(?:'s| is| was|:|=)?\s*({_CODE})(?![\w-])",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?<![\w-])(?:(?:home|mailing|postal|billing|shipping|delivery|street|residential|current|new|"
    r"permanent|work|office|return|full|physical|old|business|correct|forwarding|registered) )?"
    r"(?<!mail )(?<!ip )(?<!mac )(?<!web )(?<!wallet )(?<!btc )(?<!email )(?<!memory )"
    r"address(?: on (?:file|record))?(?:\s*[:=]\s*|'?s | is (?:now |still )?| was |, )"
    r"(?:at )?([^\n;@|\"]{5,110}?)(?=[.!?](?:\s|$)|\n|;|\||\"|$|,? (?:and (?:my|the|her|his|i)|but|"
    r"phone|tel|my|so|if|which|where|until|please|since|because)\b)",
    re.IGNORECASE,
)
_AT = re.compile(
    r"(?<![\w])(?:at|@) (\d{1,5}[A-Za-z]? (?:[NSEW]\.? )?"
    r"(?!(?:AM|PM|Noon|EST|PST|CET|GMT|UTC|Eastern|Pacific|Central|Mountain|Mon|Tue|Wed|Thu"
    r"|Fri|Sat|"
    r"Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec|USD|EUR|GBP|Hz|MHz|GHz|KB|MB|GB|TB|[A-Z]+"
    r"\b))[A-Z][\w'-]+(?: [A-Z][\w'-]+){0,3}|\d{1,5} [nsew]\.? [a-z]{3,})(?![\w:%])"
)
_LIVES = re.compile(
    r"(?<![\w])(?:lives?|lived|living|stay(?:s|ed|ing)?|resid(?:e|es|ed|ing)|house|home|place|flat|"
    r"apartment|sold|rent|rented|renting|bought|own|owned|moved|moving|ship(?:ped)?(?: \w+)?"
    r"|deliver(?:ed)?(?: \w+)?|mail(?:ed)?(?: \w+)?|"
    r"located|parked|grew up|come(?: over)?|came|drive|drop(?: \w+){1,3}|meet(?: me)?|party)"
    r"(?:(?: (?:to|at|in|by|over at|is|is at))+|(?<=sold)|(?<=rented)|(?<=bought)"
    r"|(?<=owned)) (?:number |no\.? )?"
    rf"(\d{{1,5}}[A-Za-z]? {_WORD}(?: {_WORD}){{0,4}})"
)
_NO_STREET = re.compile(
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December|AM|"
    r"PM|Mon|Tue|Wed|Thu|Fri|Sat|Sun|EST|GMT|UTC|USD|EUR|GB|MB|KB|Percent|People|Minutes|Hours)"
)


def places(text: str) -> Iterator[Span]:
    """Addresses without a numbered street, as far as their own form goes."""
    for pattern in PLACES:
        for found in pattern.finditer(text):
            yield Span(found.start(), found.end(), "ADDRESS", 0.65)
    for found in _POSTCODE.finditer(text):
        yield Span(found.start(1), found.end(1), "ADDRESS", 0.6)
    for found in _LABEL.finditer(text):
        value = found[1].rstrip(" ,")
        if re.search(r"\d", value) and re.search(r"[A-Za-z]{3}", value) and "://" not in value:
            yield Span(found.start(1), found.start(1) + len(value), "ADDRESS", 0.6)
    for found in _AT.finditer(text):
        yield Span(found.start(1), found.end(1), "ADDRESS", 0.5)
    for found in _LIVES.finditer(text):
        if not _NO_STREET.match(found[1].split(" ")[1]):
            yield Span(found.start(1), found.end(1), "ADDRESS", 0.6)
