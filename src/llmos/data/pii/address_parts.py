"""What stands before and after a street and its number: flats, houses, towns, codes, countries."""

from __future__ import annotations

import re

UNIT_WORD = (
    r"(?:apartment|apt|appt|suite|ste|unit|flat|floor|fl|room|rm|bldg|building|tower|block|blk|lot|"
    r"trailer|box|door|level|lvl|office|studio|house|penthouse|ph|spc|space|dept|wing|entrance|"
    r"basement|dock|bay|gate|shop|stall|kiosk|berth|slip|pier|hangar|mailbox|pmb|stand|site|cabin)"
)
UNIT = (
    rf"(?:{UNIT_WORD}\.? ?(?:no\.? ?|number )?#? ?(?:[A-Z]{{0,2}}-?\d+[A-Za-z]?(?:[-/][A-Z]?\d+)*"
    r"|[A-Z]\d?(?![A-Za-z])|One|Two|Three)"
    r"|#\s?[A-Z]?\d+[A-Za-z]?(?:-\d+)?|\d{1,3}(?:st|nd|rd|th) (?:floor|fl)(?: (?:rear|front))?"
    r"|(?:ground|top|first|second|third|fourth|fifth|basement|rear|upper|lower|garden) (?:floor|"
    r"flat|unit|apartment)(?: (?:rear|front))?|(?:upper|lower|top) (?:level|half)"
    r"|(?:side|back|rear|front) (?:door|entrance|gate))"
)
STATE = (
    r"(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|PR|RI|"
    r"S[CD]|T[NX]|UT|V[AT]|W[AIVY]|ON|QC|BC|AB|MB|SK|NS|NB|NL|PE|NSW|VIC|QLD|WA|SA|TAS|ACT|NT)"
)
STATE_NAME = (
    r"(?:Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia|"
    r"Hawaii|Idaho|Illinois|Indiana|Iowa|Kansas|Kentucky|Louisiana|Maine|Maryland|Massachusetts|"
    r"Michigan|Minnesota|Mississippi|Missouri|Montana|Nebraska|Nevada|New Hampshire|New Jersey|"
    r"New Mexico|New York|North Carolina|North Dakota|Ohio|Oklahoma|Oregon|Pennsylvania|"
    r"Rhode Island|South Carolina|South Dakota|Tennessee|Texas|Utah|Vermont|Virginia|Washington|"
    r"West Virginia|Wisconsin|Wyoming|Ontario|Quebec|British Columbia|Alberta)"
)
_COUNTRY = (
    r"(?:USA|U\.S\.A\.|US|UK|U\.K\.|United States|United Kingdom|England|Scotland|Wales|Ireland|"
    r"Canada|Australia|New Zealand|Germany|France|Italy|Spain|Netherlands|Singapore|India|China|"
    r"Japan|Switzerland|Austria|Belgium|Sweden|Norway|Denmark|Finland|Poland|Portugal|Brazil|"
    r"Mexico|South Africa|Nigeria|Kenya|Hong Kong|PRC)"
)
POSTCODE = (
    r"(?:(?:[A-Z]{1,2}-)?\d{5}(?:-\d{4,5})?|[A-Z]{1,2}-\d{4}|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}"
    r"|[A-Z]\d[A-Z] ?\d[A-Z]\d|\d{4} "
    r"?[A-Z]{2}|\d{3} ?\d{2,3}|\d{2}-\d{3}|\d{5}-\d{3}|\d{4}-\d{3}|\d{3}-\d{4}|"
    r"[A-Z]\d[\dW] ?[A-Z\d]{4}|\d{4})(?![\w-])"
)
_NO_PART = (
    r"(?!(?:and|but|or|I|We|He|She|They|You|The (?!\w+[,\n])|Please|Pls|Call|Calls?"
    r"|Tel(?! Aviv)|Phone|Ph|"
    r"Email|E-mail|Thanks|Thank|Cheers|If|It|Its|My|Our|Your|His|Her|Mr|Mrs|Ms|Dr|Attn|Fax|Mobile|"
    r"Mob|Cell|Order|Invoice|Date|Dear|Hi|Hello|Hey|Name|Re|Regards|Best|Yours|Subject|From|To|Age|"
    r"Aged|DOB|Born|SSN|ID|Ref|Contact|Total|Amount|Mon|Tue|Wed|Thu|Fri|Sat|Sun|January|February|"
    r"March|April|May|June|July|August|September|October|November|December|Today|Tomorrow"
    r"|Yesterday|"
    r"Payment|Item|Items|Notes?|PIN|Password|Is|Are|Was|Can|Could|Do|Did|Will|Would|Where|When"
    r"|What|"
    r"Who|Why|How|So|Then|That|This|There|After|Before|Bring|Ask|Use|Ring|Press|Leave|Let|See|"
    r"Not|No(?! ?\.? ?\d)|Yes|Ok|OK|Sincerely|Love|Signed|Status|Qty|USD|GBP|EUR)\b|(?:Mon|Tues|"
    r"Wednes|Thurs|Fri|Satur|Sun)day|\d{3}[-. ]\d{4}|\d{3}[-. ]\d{3}[-. ]\d{4}|0\d{2,4} \d|\d{1,2}"
    r"[:/]\d{2}|\d{4}-\d\d-\d\d|\+\d|[\w.]*@)"
)
TOWN = rf"(?:{_NO_PART}[A-ZÀ-Ž][\wÀ-ž'.-]*(?:[ -](?:upon|on|in|le|la|am|an der|de|of|der|sur|"
TOWN += r"under|the|[A-ZÀ-Ž][\wÀ-ž'-]*)){0,3})"
_WORD = r"(?:[A-ZÀ-Ž0-9#][\wÀ-ž'./#&ªº°-]*)"
_PART = rf"(?:{_NO_PART}(?=[^,;\n]*[A-Za-z]){_WORD}(?: (?:of|the|upon|on|in|de|la|le|and|&|do|da|"
_PART += rf"del|el|{_WORD})){{0,5}})"
_BREAK = r"(?:\s*,\s*|\s*\n\s*|\s*;\s*|\s+[-–·|]\s+)"
_FOREIGN_UNIT = (
    r"(?:(?:apto?|apartado|piso|planta|Etage|étage|Stock|Whg|Wohnung|int|interno|scala|bât|Top|Tür|"
    r"m|lok|Col|kv)\.? ?[\w./ºª-]{1,8}|\d{1,2}(?:º|ª|°|\. Stock|\. Etage|\. OG|e étage)"
    r"(?: (?:Esq|Dto|Dcha|Izq|Izda|Dir|Fte|\w(?!\w))\.?)?)"
)
_NEAR = r"(?:near|nr\.?|opp(?:osite)?\.?|behind|next to|beside|above|adjacent to|adj\.?|off)"
_TAIL = re.compile(
    rf"(?:(?:{_BREAK}|\s\(?)(?i:{UNIT})\)?(?![\w])|(?:/\d{{1,4}}){{1,3}}(?!\w)"
    rf"|{_BREAK}{_FOREIGN_UNIT}(?![\w])"
    r"|\s(?:Lower|Upper|Central|North|South|East|West|Extension|Ext|[NS][EW]|[NSEW])\b(?! \w+ing)"
    rf"|(?:{_BREAK}|\s){POSTCODE} {TOWN}(?=[,.;:!?\n)]|$| [a-z(])"
    rf"|(?:{_BREAK}|\s)(?:in )?(?:{TOWN}(?:,\s*|\s+))?(?:{STATE_NAME}|{STATE}\.?)(?:,"
    rf"?\s+{POSTCODE}|(?![\w]))"
    rf"|(?:{_BREAK}|\s){POSTCODE}"
    rf"|(?:{_BREAK}|\s)(?:the )?{_COUNTRY}(?![\w])"
    rf"|{_BREAK}{TOWN},?\s+{POSTCODE}|\s(?:in\s)?{TOWN}(?=[,.;:!?\n)\"]|$|\s+\d)"
    rf"|,\s*{TOWN}(?=\s*[,.;:!?\n)\"|]|\s*$|\s+[a-z]+\b)"
    rf"|\s*[,;]\s*{_PART}(?=\s*[,.;:!?\n)\"|]|\s*$)"
    r"|\s\((?:[NSEW]|North|South|East|West)\)"
    rf"|,?\s*(?i:{_NEAR}) (?:the )?{_PART}(?=\s*[,.;:!?\n)\"|]|\s*$)"
    rf"|(?:\s*\|\s*|\t){TOWN}(?:\s*\|\s*|\t)(?:{STATE}(?:\s*\|\s*|\t|\s))?{POSTCODE}"
    rf"|\n\s*{TOWN}(?=,?\s*\n|,))"
)
_LOWER_TAIL = re.compile(
    rf",? {UNIT}(?![\w])|,? [a-z]+(?: [a-z]+)?,? (?i:{STATE})(?: \d{{4,5}})?(?![\w])|,? "
    rf"\d{{5}}(?![\w-])|(?:,? [a-z]+(?: [a-z]+)?)?,? [a-z]{{1,2}}\d[a-z\d]? ?\d[a-z]{{2}}(?![\w])"
    rf"|, (?!(?:please|thanks|thank|and|but|so|ok|okay|yes|no|right|you|it|we|he|she|they|i)\b)"
    rf"[a-z]{{4,}}(?: [a-z]{{4,}})?(?=[.!?,]|$)",
    re.IGNORECASE,
)
_BUILDING = (
    r"(?:House|Court|Building|Tower|Towers|Mansions?|Lodge|Plaza|Hall|Apartments|Apts"
    r"|Cent(?:re|er)|"
    r"Block|Heights|Residences?|Residency|Flats|Lofts|Works|Mill|Mills|Barn|Cottages?|Farm|Garden|"
    r"Gardens|Villas?|Arcade|Park|Estate|Manor|Grange|Rectory|Vicarage|Forge|Gables|Complex|"
    r"Chambers|Buildings|Quarters|Wharf|Hotel|Inn|Enclave|Society|Campus|Nursery|Bungalow|"
    r"Hospice|Hospital|School|Church|College|Clinic|Home|Yard|CHS)"
)
_BEFORE = re.compile(
    rf"(?:\b(?i:{UNIT_WORD}|plot|km|(?:h|d)\. ?no|house no|number|no)\.? ?$"
    rf"|(?:\b(?i:{UNIT})|\b[A-Z]{{1,2}}-?\d{{1,5}}|(?:c/o )?(?:The )?(?:[A-Z][\w'&]+ ){{1,4}}"
    rf"{_BUILDING}(?: \d{{1,3}}\w?)?|\d{{1,3}}/F"
    rf"|\bc/o [A-Z][\w'&]+(?: (?:[A-Z][\w'&]+|&|and)){{0,3}}"
    rf"|(?:Casa|Villa|Chalet|Haus|Quinta|Château|Hacienda|Finca|Lot \d+) [A-Z]\w+(?: \d+)?"
    rf"|The [A-Z]\w+|\d{{1,3}}(?:st|nd|rd|th) Floor)\s?(?:[,\n/] ?|,? at )\s*"
    rf"|\b(?i:rear|back|front|top|side|flat above|above) (?:of )?$)$"
)


def head(text: str, start: int) -> int:
    """Return where an address begins whose street begins at ``start``: flats and houses before."""
    for _ in range(5):
        begin = max(0, start - 60)
        found = _BEFORE.search(text[begin:start])
        if found is None:
            break
        start = begin + found.start()
    return start


def tail(text: str, end: int, *, is_lower: bool = False) -> int:
    """Return where an address ends that is known up to ``end``.

    Args:
        is_lower: whether towns and states may be in lower case.
    """
    end = _grown(_TAIL, text, end)
    return _grown(_LOWER_TAIL, text, end) if is_lower else _without_dot(text, end)


def _grown(pattern: re.Pattern[str], text: str, end: int) -> int:
    for _ in range(8):
        found = pattern.match(text, end)
        if found is None:
            break
        end = found.end()
    return end


def _without_dot(text: str, end: int) -> int:
    """Return the end of an address without the dot that ends a sentence."""
    word = re.search(r"(\w+)\.$", text[max(0, end - 24) : end])
    return end - 1 if word is not None and len(word[1]) > 4 else end
