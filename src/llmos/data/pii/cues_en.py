"""Words that stand before and after English names, and those that speak against one."""

from __future__ import annotations

import re

LEAD = re.compile(
    r"(?:\b(?:my name is|my name's|name is|names are|i am|i'm|im|this is|named|call me|known as|"
    r"aka|"
    r"a\.k\.a\.|alias|née|nee|born|signed|signed by|ask for|ask|speak (?:to|with)|speaking (?:to|"
    r"with)|talk to|talked to|"
    r"spoke (?:to|with)|met(?: with)?|meet|contact|reach|call|called|text|email|message|tell|told|"
    r"remind|invite|invited|cc|attn|attention|care of|c/o|on behalf of|in the name of|sincerely|"
    r"dated|married|hired|fired|sued|visited|arrested|owes|thank|thanks to|introduce|"
    r"my (?:wife|husband|son|daughter|brother|sister|friend|boss|neighbou?r|colleague|partner|"
    r"girlfriend|boyfriend|"
    r"mother|father|mum|mom|dad|aunt|uncle|cousin|nephew|niece|landlord|flatmate|roommate|manager|"
    r"doctor|gp|fiancée?|"
    r"ex|bestie|mate|buddy|teacher|coach|lawyer|accountant|assistant|client|student|babysitter|"
    r"nanny)|"
    r"(?:patient|client|customer|employee|tenant|claimant|defendant|plaintiff|suspect|victim|"
    r"witness|passenger|"
    r"driver|applicant|beneficiary|guest|resident|student|colleague|neighbou?r|driver)),?)\s+$"
    r"|(?:\b(?:name|full name|first name|last name|surname|given name|family name|maiden name|"
    r"nickname|patient|customer|"
    r"client|employee|contact|contact person|emergency contact|attn|attention|tenant|landlord|"
    r"applicant|owner|author|"
    r"authors|driver|passenger|guest|from|to|cc|bcc|by|assigned to|assignee|reporter|reported by|"
    r"reviewer|reviewed by|approved by|"
    r"prepared by|witness|witnesses|signature|signed|signed by|beneficiary|payee|payer|account "
    r"holder|cardholder|card holder|"
    r"holder|recipient|sender|ship to|bill to|deliver to|delivered to|sold to|insured|"
    r"policyholder|next of kin|"
    r"father|mother|spouse|wife|husband|child|parent|guardian|student|teacher|doctor|physician|"
    r"nurse|gp|"
    r"interviewer|interviewee|candidate|attendees?|participants?|host|speaker|caller|agent|"
    r"operator|"
    r"buyer|seller|lessor|lessee|borrower|lender|director|manager|supervisor|member|visitor|"
    r"resident|"
    r"requester|requested by|created by|updated by|submitted by|user|dear|hi|hello|hey))\s*[:=#|"
    r"\t]+\s*[\"'*_]*\s*$"
    r"|[\"'](?:\w*_)?(?:full|first|last|given|family|sur|customer|patient|display|owner|author|"
    r"contact|holder|recipient|"
    r"sender|middle|maiden)?_?(?:name|author|owner|recipient|sender|customer|patient|employee|"
    r"assignee|contact)[\"']?\s*[:=]+\s*[\"']$",
    re.IGNORECASE,
)
GREETING = re.compile(
    r"(?:^|[\n.!?,:;)\]-]\s*)(?:hi|hey|hello|hiya|dear|hola|yo|heya|morning|good (?:morning|"
    r"afternoon|evening|night)|thanks|"
    r"thank you|thx|ty|cheers|sorry|congrats|congratulations|bye|goodbye|welcome|happy birthday|"
    r"rip|r\.i\.p\.?|"
    r"miss you|love you|well done|night|yes|ok|okay|please|oi|to|from)[,]?(?: (?:again|so much|"
    r"back|there|my dear|both))?,?\s+$",
    re.IGNORECASE,
)
SIGN_OFF = re.compile(
    r"(?:(?:regards|sincerely|cheers|thanks|best|best wishes|love|yours|yours truly|yours "
    r"faithfully|signed|xoxo|xx|warmly|"
    r"respectfully|take care|cordially|talk soon|many thanks|ta|thx|kindly|faithfully)[,"
    r".!]*\s*\n+\s*|"
    r"[\n.!?]\s*[-~]{1,2}\s?|(?:best|cheers|thanks|regards|love|sincerely|xoxo),\s+)$",
    re.IGNORECASE,
)
AFTER = re.compile(
    r"(?:,? (?:said|says|told|asked|asks|replied|wrote|writes|called|calls|texted|emailed|phoned|"
    r"rang|thinks|joked|added|"
    r"explained|agreed|admitted|insisted|shouted|whispered|laughed|smiled|nodded|signed|lives|"
    r"lived|died|moved|works|"
    r"worked|got married|was born|is my|is our|'s (?:mother|father|mum|mom|dad|wife|husband|son|"
    r"daughter|brother|sister|"
    r"phone|number|email|address|birthday|appointment|account|house|office|flat|room|car|laptop|"
    r"desk|boss|kids|chart|"
    r"prescription|surgery|lawyer|passport|salary))\b|\s*[(,]\s*(?:aged? )?\d{1,2}(?:\)|,| years)|"
    r", (?:a|an|the|our|my|his|her|their) "
    r"(?:\w+ ){0,3}(?:manager|director|engineer|teacher|nurse|doctor|lawyer|student|neighbou?r|"
    r"friend|clerk|officer|"
    r"plumber|electrician|tenant|owner|founder|ceo|cto|analyst|developer|designer|assistant|"
    r"professor|patient|resident)"
    r"|\s*<[^<>\s]+@[^<>\s]+>)",
    re.IGNORECASE,
)
PERSON_BEFORE = re.compile(
    r"(?:^|[^A-Za-z'])(?:with|by|and|told|tell|ask|asked|met|meet|meeting|for|from|to|that|when|"
    r"if|because|but|as|is|was|"
    r"while|after|before|than|between|saw|see|seen|love|loved|miss|thank|thanks|both|or|called|"
    r"call|texted|let|gave|give|"
    r"sent|helped|help|remind|know|knew|heard|since|until|about|wrote|like|where|how|why|said|"
    r"says|paid|owe|about) $",
    re.IGNORECASE,
)
PLACE_BEFORE = re.compile(
    r"(?:^|[^A-Za-z'])(?:in|at|near|the|a|an|of|via|into|around|through|on|this|that|my|your|our|"
    r"their|his|her|using|use|used|"
    r"no|every|any|some|new|old|these|those|per|visit|visited|install|installed|called) $",
    re.IGNORECASE,
)
VERB_AFTER = re.compile(
    r"(?:'s)? (?:is|was|has|had|will|would|can|could|did|does|doesn't|didn't|won't|wants|wanted|"
    r"should|shall|may|might|must|"
    r"isn't|wasn't|hasn't|never|always|just|also|still|already|got|gets|took|takes|made|makes|"
    r"came|comes|went|goes|left|"
    r"lost|found|gave|gives|sent|sends|paid|pays|owes|owed|needs|needed|likes|liked|loves|loved|"
    r"hates|knows|knew|thought|"
    r"seems|looks|looked|brought|bought|sold|met|saw|ran|won|sat|stood|who|whose|and I|and me|& I|"
    r"or I|arrived|returned|"
    r"forgot|remembered|started|began|tried|picked|dropped|booked|ordered|requested|reported|"
    r"confirmed|cancelled|canceled|"
    r"signed|submitted|joined|left|here|speaking)\b"
)
ENGLISH_FORM = re.compile(
    r"(?:ing|[^aeiou]ed|ly|[ts]ion|ness|ment|able|ible|ous|ful|ity|ism|ical|ally|ships?|ance|ence|"
    r"hood|less|ward|wise|"
    r"[ai]ze|ify|ology|graphy|ware|tics?|ures?|ages?)s?$"
)
POSSESSED_THING = re.compile(
    r"'s? (?:disease|syndrome|law|theorem|lemma|equation|principle|palsy|sign|method|algorithm|"
    r"razor|cat|dog|paradox|"
    r"day|eve|constant|number|comet|burgers?|pizza|cafe|diner|bar|pub|salon|school|cathedral|"
    r"church)\b"
)
