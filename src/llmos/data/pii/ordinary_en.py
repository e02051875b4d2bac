"""English words that are capitalised without being a person: those that begin sentences, places,
peoples, days, companies, and what stands after the name of a thing. Written for this project.
"""

from __future__ import annotations

from llmos.data.pii.context import listed

FUNCTION = listed(
    """
    a about above across after again against ago ah all almost alone along already also although
    always am among amid an and another any anybody anyone anything anyway anywhere are aren't
    around as at away back be because been before behind being below beside besides between beyond
    both but by bye can can't cannot could couldn't did didn't do does doesn't doing don't done
    down due during each either else enough even ever every everybody everyone everything
    everywhere except few first for from further get gets getting give given gives go goes going
    gone gonna good got gotta great had hadn't has hasn't have haven't having he he'd he'll he's
    hello hence her here here's hers herself hey hi him himself his how how's however i i'd i'll
    i'm i've if in indeed inside instead into is isn't it it'd it'll it's its itself just keep
    kept kind last late later least less lest let let's like likely lol lot lots made make makes
    many maybe me mean meanwhile might mine more most mostly much must my myself near need needs
    neither never nevertheless next no nobody none nor not nothing now nowhere of off often oh ok
    okay old on once one only onto or other others otherwise our ours ourselves out outside over
    overall own per perhaps please plus put quite rather really regarding said same saw say says
    second see seem seems seen several shall she she'd she'll she's should shouldn't since so some
    somebody someone something sometimes somewhere soon sorry still such sure take taken than
    thank thanks that that's the their theirs them themselves then there there's therefore these
    they they'd they'll they're they've thing things think third this those though three through
    throughout thus till to today together tomorrow tonight too took toward towards try two u
    under unless unlike until unto up upon ur us use used using very via want wanted was wasn't
    way we we'd we'll we're we've well went were weren't what what's whatever when whenever where
    where's whereas wherever whether which while who who's whoever whole whom whose why will with
    within without won't would wouldn't wow yeah yep yes yesterday yet you you'd you'll you're
    you've your yours yourself yourselves im ive dont cant wont thats whats omg lmao wtf rt dm fyi
    asap ps btw imo idk nope yay haha hahaha ha aww ugh hmm um uh er er- ye yo ya tbh smh ikr bro
    dude guys gal gals folks mom dad mum mommy daddy mama papa
    """
)
BEGINNING = listed(
    """
    accept access according account accounts act action actually add added adding address admin
    admins admitted advice after agent agreed agreement airport alert allergic allergies amazing
    amount angry announcement annual answer apartment apologies apparently appeal applicant
    application apply appointment approved april arrange article ask asked asking assigned
    attached attendees attention attn author authors available award awards awesome awful baby
    backup bad balance bank based beautiful beginning believe beneficiary best better big billing
    birthday bless board book booked booking books born boss bought box break breaking breakfast
    bring brother budget build building bus business buy buyer caller calling called call calls
    cameras card care careful case cash catch caution certificate chairman change changed channel
    chapter charge chat check checked cheers child children choose christmas church city claim
    claimant class clean cleared click client clients clinic close closed club coach code coffee
    cold colleague college come comes coming comment comments committee company complaint complete
    completed concerning confirm confirmed congrats congratulations connect contact contacts
    content contract cool copy correct correction cost could counsel count country couple course
    court courtesy create created credit crew currency current currently customer customers cute
    daily damn data date dates day days dead deal dear death debug defendant definitely deleted
    delivered delivery department deployed desk despite details diagnosis did died dinner direct
    director discharged discuss discussed discussion disease district doc doctor document
    documents does dog domain double download draft drama draw dream dress drink drive driver drop
    drug due early east easter easy eat edit edited editor effective either email emailed emails
    emergency employee employees employer empty end ended engine enjoy enjoyed ensure enter
    entered entry episode error errors especially estimated evening event events ever every
    exactly excellent exclusive excuse exhibit expect expected expires explain extra eyes face
    fact fail failed failure fall false family famous fan fancy fans fantastic farewell fashion
    fast favorite favourite fax feature feel feeling female festival field fig figure file filed
    files film final finally financial find fine finish fire first fix fixed flight floor flowers
    follow followed following follows food football for forget former forward forwarded found free
    fresh friend friends front full fun funny future game games gate gave gender general gentlemen
    gift girl girls glad global god goal gold golden goodbye goodnight gosh got government grade
    grand great greetings group growing guarantor guardian guess guest guests guide gift hair half
    hand hands happy hard hardly hate head heads health hear heard heart heat heavy hell help
    helped hereby high highly hire hired history hit hold holder holiday holidays home honest
    honestly honey honorable honourable hope hopefully horrible hospital host hot hotel hour hours
    house housing huge human hundred hurry hurt husband idea identity imagine important include
    including inc income incident incoming index individual info information inform initial input
    inquiry insert inspection insurance insured interested interesting internet interview
    introducing invite invited invoice issued issue issues item items january join joined joint
    judge judgment july june keep key keys kid kids kill kind kindly king kitchen knew know known
    label lady ladies land language large lastly lately law lawyer lead leader league learn
    learned leave leaving left legal legend length lesson letter letters level license licence
    life light limited line link links list listed listen little live lives living load loan local
    locate location log logged login logs long look looked looking looks lord loss lost loud love
    loved lovely loves low luck lunch mail main major male man manager managing march marriage
    married master match mate material matter maximum meal meaning media medical medicine
    medication meet meeting meets member members memo memory men menu mention merry message
    messages met midnight million mind minimum minister minor minute minutes miss missed missing
    mistake mobile model modern moment monday money month months monthly moon morning mother motor
    mountain move moved movie movies music name named names national native natural nearly
    neighbor neighbour network new news newly nice night nights nobody noon normal north note
    noted notes nothing notice notify number numbers nurse object obviously occupation offer
    office officer offices official oil older online open opened opening operation opinion option
    options order orders organisation organization original outgoing outstanding overdue owner
    page pages paid pain paper paragraph parent parents part participant participants parties
    partner party pass passed passenger passport password past patient patients pay payment payee
    payer payments peace people percent perfect period person personal persons pet phone photo
    photos physician pick picked picture pictures piece place places plan plans play played player
    players playing plaintiff pleased pls plz point points police policy poll poor pop popular
    position positive possible post posted posts power practice pray prayers premier prescription
    present press pretty previous previously price prior private prize pro probably problem
    problems product products profile program programme project property proud provide provided
    provider public published pull purchase purpose push queen query question questions quick
    quickly quiet quote rain raise ran random rate reach reached read reader ready real reason
    recall receipt receive received recent recently recipient record records red reference
    referral referred refund regards region registered regular related relationship release
    released remember remind reminder remove removed rent reply replied report reported reports
    representative request requested required research reserve reserved reset resident respond
    response rest restaurant result results resume return returned review reviewed reviewer
    reviews rich ride right ring river road rock role roll room rooms rough round route rule run
    running sad safe safety sale sales saturday save saved scene schedule scheduled school science
    score screen sea search season seat secretary section secure security seeking self sell seller
    send sender sending sent senior separate serious seriously serve server service services
    session set settings seven share shared ship shipped shipping shop short shot shout show
    showed shows shut sick side sign signature signed similar simple simply sincerely single sir
    sister sit site size skin sleep slow small smart smile snow social soft sold solution song
    songs sooner sound source south space speak speaker speaking special specifically spoke sport
    sports spouse spring staff stage standard star stars start started starting state statement
    states station status stay step stop stopped store stories story straight strange street
    strong student students study stuff stupid subject submitted success suddenly sun sunday
    supervisor supplier support supposed surely surgery surname surprise swear sweet system table
    takes taking talk talked talking tax taxi teach teacher team technical tel telephone tell
    tells temperature ten tenant tenants terms terrible test tested testing text texted texts
    theory thinking thirdly thought thoughts thousand ticket tickets tie time times tiny tip tired
    title titles told tool top topic total totally touch tour town track trade traffic trailer
    train training transaction transfer translation travel treatment tree trial trip trouble truck
    true trust truth trying turn turned twice type typical ugly unable understand unfortunately
    union unit united university unknown update updated updates upload urgent user username users
    usually vacation valid value various vehicle verified version victim video videos view village
    visit visited visitor visitors voice volunteer vote wait waiting wake walk wall wanna want
    wants war warm warning watch watched watching water weather web website wedding week weekend
    weekly weeks weird welcome west whatever wife wild win wind window wine winner winning winter
    wish wishes wishing witness witnesses woman women wonder wonderful word words work worked
    worker working works world worried worry worse worst worth wow write writer writing written
    wrong wrote year years yellow young younger zero zone black white blue green red brown grey
    gray pink purple orange silver nee aka alias dob ssn id iban ip url pin otp cc bcc re fw fwd
    sms mri ct er icu gp ceo cto cfo coo hr it pr qa vp md phd mba bsc msc esq jr sr ltd llc inc
    corp plc co gmbh tv radio dvd cd pc usb gps api http json xml html css sql ok am pm gmt utc
    est pst cet usd eur gbp vat ref no nr etc eg ie vs select insert where values into join null
    true debug info warn error fatal trace get post patch import export def class return print
    const let var function async await public static void
    """
)
PLACES = listed(
    """
    africa african america american americans antarctica arabia arabic arctic argentina armenia
    asia asian athens atlanta atlantic auckland australia australian austria bahamas baltimore
    bangkok bangladesh barcelona bavaria beijing belfast belgium berkeley berlin bermuda
    birmingham bolivia bombay boston brazil brazilian brighton brisbane bristol britain british
    broadway bronx brooklyn brussels bucharest budapest buffalo bulgaria burma cairo calcutta
    california cambodia cambridge canada canadian canberra cardiff caribbean chengdu chennai
    chicago chile china chinese chongqing cleveland cologne colombia colorado connecticut
    copenhagen cornwall croatia cuba cyprus czech dakota delaware delhi denmark denver detroit
    devon dover dubai dublin dutch edinburgh egypt england english essex estonia ethiopia europe
    european fiji finland florence florida france frankfurt french geneva german germany ghana
    gibraltar glasgow greece greek guangdong guangzhou guatemala haiti hamburg hangzhou hanoi
    harlem havana hawaii helsinki hindi hollywood houston hungary iceland idaho illinois india
    indian indiana indonesia iowa iran iraq ireland irish israel istanbul italian italy jakarta
    jamaica japan japanese jerusalem jersey jordan kansas kashmir kathmandu kent kentucky kenya
    kiev kyiv kong korea korean kuwait kyoto lagos latin latvia lebanon leeds leicester libya lima
    lisbon lithuania liverpool london louisiana luxembourg macau madrid maine malaysia malta
    manchester manhattan manila maryland massachusetts mediterranean melbourne memphis mexican
    mexico miami michigan milan milwaukee minnesota mississippi missouri mongolia montana montreal
    morocco moscow mumbai munich myanmar nairobi namibia nanjing naples nashville nebraska nepal
    netherlands nevada newcastle nigeria norfolk normandy norway norwegian nottingham oakland ohio
    oklahoma ontario oregon orlando osaka oslo ottawa oxford pacific pakistan palestine panama
    paris pennsylvania persian perth peru philadelphia philippines phoenix pittsburgh poland
    polish portland portugal portuguese prague quebec queensland reading rhode riga rio romania
    rome russia russian sacramento salzburg scotland scottish seattle senegal seoul serbia
    shanghai sheffield shenzhen siberia sicily singapore slovakia slovenia somalia spain spanish
    springfield stockholm stuttgart suffolk sussex sweden swedish swiss switzerland sydney syria
    taipei taiwan tampa tanzania tasmania tehran tennessee texas thai thailand tibet tokyo toronto
    tunisia turin turkey turkish tuscany uganda uk ukraine ukrainian uruguay us usa utah vancouver
    vatican venezuela venice vermont vienna vietnam vietnamese virginia wales warsaw washington
    wellington welsh wisconsin wyoming yorkshire zagreb zambia zealand zimbabwe zurich christian
    christians muslim muslims jewish jews catholic buddhist hindu protestant islam christianity
    monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur thurs fri
    january february march april june july august september october november december jan feb mar
    apr jun jul aug sep sept oct nov dec easter halloween thanksgiving hanukkah ramadan diwali
    xmas eid google facebook twitter youtube instagram microsoft amazon apple netflix spotify uber
    airbnb tesla ibm intel nvidia oracle adobe samsung sony nintendo huawei xiaomi tencent alibaba
    baidu wechat whatsapp telegram slack zoom skype linkedin github gitlab reddit tiktok snapchat
    pinterest paypal visa mastercard ebay walmart target costco starbucks mcdonald's disney pixar
    marvel lego ikea nike adidas toyota honda ford bmw audi volkswagen mercedes-benz boeing airbus
    fedex ups dhl usps nasa fbi cia nsa irs nhs bbc cnn nbc abc cbs fox espn nba nfl mlb nhl fifa
    uefa un eu nato who unesco android iphone ipad mac windows linux ubuntu debian docker
    kubernetes python java javascript excel outlook gmail yahoo bing chrome firefox safari alexa
    siri cortana playstation xbox wii kindle photoshop powerpoint wikipedia oxfam unicef congress
    senate parliament bible koran quran torah republican republicans democrat democrats democratic
    internet olympics olympic nobel grammy oscars emmy wimbledon superbowl bowl cup covid
    coronavirus earth mars venus jupiter saturn neptune uranus mercury pluto
    """
)
CALENDAR = listed(
    """
    monday tuesday wednesday thursday friday saturday sunday january february march april may june
    july august september october november december jan feb mar apr jun jul aug sep sept oct nov
    dec
    """
)
THING_AFTER = listed(
    """
    street st. avenue ave road rd lane drive boulevard blvd court square terrace way place
    crescent close highway parkway bridge tower towers building house hall hotel inn hospital
    clinic university college school academy institute library museum gallery theatre theater
    church cathedral chapel temple mosque park gardens zoo stadium arena airport station terminal
    port harbour harbor bay beach island islands lake river creek falls mountain mountains mount
    hill hills valley canyon desert forest ocean sea county city town village district province
    state states region inc inc. ltd ltd. llc llp corp corp. corporation company co co. plc gmbh
    ag group holdings partners associates brothers bros & motors airlines airways bank insurance
    foundation trust fund charity society association union federation league party committee
    council commission ministry department agency bureau office prize award medal cup trophy
    championship tournament open theorem lemma law's equation effect principle syndrome disease
    disorder palsy lymphoma scale index test method algorithm function transform distribution
    inequality conjecture hypothesis machine engine number constant act amendment doctrine treaty
    accord protocol plan report review times post journal gazette herald tribune telegraph
    guardian news magazine press books records studios pictures productions entertainment festival
    concert tour show week day month season edition series model phone watch oven cola restaurant
    cafe café bar pub grill pizza bakery deli market supermarket store stores shop mall plaza
    centre center estate farm ranch vineyard winery brewery coffee tea whiskey beer jeans shoes fc
    afc united rovers cricket football basketball baseball hockey rangers method's clinic's logic
    algebra geometry sort tree filter chain process
    """
)
"""What stands after the name of a person that has become that of a place, a firm or a thing."""
