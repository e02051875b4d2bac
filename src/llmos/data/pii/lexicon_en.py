"""Words that tell a person's name in Latin letters: given names, surnames, titles, and the
capitalised words that are none. Written for this project from common knowledge.
"""

from __future__ import annotations

from llmos.data.pii.context import listed

GIVEN = listed(
    """
    aaron abby abdul abdullah abigail abraham ada adam adebayo adele adeline aditi aditya adrian
    adriana adrienne agatha agnes ahmad ahmed aidan aiden aileen aisha ajay akash akira alan alana
    alana alastair albert alberto alec alejandra alejandro alessandra alessandro alex alexa
    alexander alexandra alexei alexis alfie alfonso alfred alfredo ali alice alicia alina alisha
    alison alistair allan allen allison alma alvin alyssa amal amanda amara amelia amelie amina
    amir amit amol amos amy ana anastasia andre andrea andreas andrei andres andrew andy anek
    angela angelica angelina angelo angie angus anika anil anisa anita anjali ann anna annabel
    anne annette annie anthony antoine antoinette anton antonia antonio anya arash archie ariana
    arjun armando arnold arthur arturo arun asha ashley ashok astrid athena audrey augustus aurora
    ava avery ayaan ayesha ayumi barbara barry bart basil beatrice beatriz becca becky belinda ben
    benedict benjamin benny bernadette bernard bernice bert bertha beth bethany betsy betty
    beverly bianca bilal billie billy blake bobby bonnie boris brad bradley brandon brenda brendan
    brent brett brian brianna bridget brooke bruce bruno bryan bryce caitlin caleb callum calvin
    cameron camila camille carl carla carlos carly carmen carol carole carolina caroline carolyn
    carrie casey cassandra cassidy cassie catalina catherine cathy cecil cecilia cecily cedric
    celeste celia celine cesar chad chandra chantal charlene charles charlie charlotte chelsea
    chen cheryl chiara chidi chinedu chinonso chloe chris christa christian christina christine
    christoph christopher chukwuemeka cindy claire clara clare clarence clarissa claudia claudio
    clayton clement cliff clifford clint clive clyde cody colette colin colleen connie connor
    conrad constance corey corinne courtney craig cristina curtis cynthia cyril daisuke dale
    damian damien damon dana daniel daniela danielle danny daphne darius darlene darnell darren
    darryl darya dave david dawid dean deanna deborah debra declan deepa deepak deirdre delia
    denis denise dennis derek desmond devin diana diane diego dieter dimitri dina dinesh dirk
    dmitri dmitry dolores dominic dominique don donald donna donovan dora doreen doris dorothy
    doug douglas dougal dustin dwayne dwight dylan eamon earl eddie edgar edith edmund eduardo
    edward edwin effie eileen ekaterina elaine eleanor elena eli elias elijah elisa elisabeth
    elise eliza elizabeth ella ellen ellie elliot elliott elsa elsie elvira emeka emil emile
    emilia emilio emily emma emmanuel enrique enzo eric erica erik erika erin ernest ernesto esme
    esperanza esteban estelle esther ethan ethel eugene eugenia eva evan evelyn ewan fabian fabio
    farah farhan farid fatima fatou federico felicia felicity felipe felix ferdinand fernanda
    fernando fiona flora floyd fran frances francesca francesco francine francis francisco franco
    francois frankie franklin franz fred freda freddie frederic frederick freya frida fritz
    gabriel gabriela gabriella gabrielle gareth garrett gary gavin gemma geoff geoffrey george
    georgina gerald geraldine gerard gerardo gertrude gianni gideon gilbert giles gillian gina
    giorgio giovanna giovanni giulia giuseppe gladys glenda glenn gloria gordon graeme graham
    gregory greta gretchen guillermo gunther gustavo guy gwen gwendolyn habib hailey hamish hamza
    hana hanna hannah hans harold harriet harris harrison harry haruto hasan hassan hattie hazel
    hector heidi heinrich helen helena helene helga henri henrietta henrik henry herbert herman
    hilary hilda hiroshi holden homer howard hubert hugh hugo humphrey hussein ian ibrahim ida
    ifeoma ignacio igor ike ilya imani imogen imran ines ingrid ioana ira irene irina irma irving
    isaac isabel isabella isabelle isaiah isla ismail ivan ivana ivor jackie jackson jacob
    jacqueline jacques jaime jakub jamal james jamie jan jana jane janet janice janine jared
    jasmin jasmine jason jasper javier jay jayden jean jeanette jeanne jeff jefferson jeffrey
    jemima jen jenna jennie jennifer jenny jens jeremiah jeremy jermaine jerome jerry jess jesse
    jessica jessie jesus jill jillian jim jimmy jing joan joann joanna joanne joao joaquin jocelyn
    jodie jody joe joel joey johan johann johanna johannes john johnny jon jonah jonas jonathan
    joni jordan jorge jose josef joseph josephine josh joshua josie joyce juan juanita judith judy
    jules julia julian juliana julie juliet juliette julio julius jun justin justine kaitlyn kamal
    kamala kareem karen karim karin karina karl karla karol kasia kate katerina katharine
    katherine kathleen kathryn kathy katia katie katrina kavita kay kayla kaylee keiko keira keith
    kelly kelsey kelvin ken kendra kenji kenneth kenny kerry kevin khadija khalid kieran kim
    kimberly kiran kirk kirsten kirsty klaus konrad kofi krishna kristen kristin kristina krystal
    kumar kurt kwame kyle kylie lakshmi lamar lara larry lars latoya laura lauren laurence laurie
    lawrence leah leanne lee leila lena leo leon leona leonard leonardo leonie leroy leslie lester
    leticia levi lewis liam libby lidia lila lilian lillian lina linda lindsay lindsey linus
    lionel lisa livia liz liza lloyd logan lois lola lonnie lorena lorenzo loretta lorna lorraine
    lottie lou louis louisa louise luca lucas lucia lucinda lucio lucy luigi luis luisa luke lukas
    luna luther lydia lyle lynda lynn lynne mabel mackenzie maddie madeleine madeline madison mae
    magda magdalena maggie mahmoud maia maisie malcolm malik malin mandy manish manuel mara marc
    marcel marcela marcelo marcia marco marcos marcus margaret margarita margot marguerite maria
    mariam marian mariana marianne marie mariam marilyn marina mario marion marisa marisol marissa
    marjorie marlene marta martha martin martina marty marvin mary maryam mateo mateus mathew
    mathilde matilda matt matteo matthew matthias maud maureen maurice mauricio max maxim maxine
    maxwell maya meera megan mehdi mehmet mei melanie melinda melissa melody mercedes meredith mia
    micah michael michaela michel michelle miguel mika mikael mike mikhail mila mildred milena
    milo mina ming minh mira miranda miriam misha mitch mitchell moira mohamed mohammad mohammed
    mohan moises molly mona monica monika monique morgan morris moses muhammad muriel musa mustafa
    myra myrtle nadia nadine nancy naomi narayan nasir natalia natalie natasha nate nathan
    nathaniel neal ned neema neha neil nell nellie nelson nia niall nicholas nick nicky nico
    nicola nicolas nicole nigel nikita nikolai nikos nina nisha noah noel nora noreen norma norman
    nuria octavia oksana ola oleg olga oliver olivia ollie oluwaseun omar ophelia orla oscar osman
    otto owen ozan pablo paige paloma pamela paola paolo parker patricia patrick patti paul paula
    pauline paulo pavel pearl pedro peggy percy perry pete peter petra phil philip philippa
    philippe phillip phoebe phyllis pierre piotr pippa polly poppy prakash pranav preeti priscilla
    priya prudence quentin quincy quinn rachel rachid raj rajesh ralph ramesh ramon ramona randall
    randy raphael raquel rashid ravi ray raymond rebecca reggie regina reginald rekha renata rene
    renee reuben rex rhiannon rhoda rhonda ricardo richard rick ricky rita roberta roberto robert
    robyn rocio rodney rodrigo roger rohan roland rolf roman romeo ron ronald ronan ronnie rory
    rosa rosalie rosalind rosario roseanne rosemary rosie ross rowan rowena roxanne roy ruben
    rudolf rudy rufus rupert russell ruth ryan sabina sabine sabrina sadie sally salma salman sam
    samantha sami samir samira samson samuel sandeep sandra sanjay santiago sara sarah sasha saul
    scarlett scott sean sebastian selena selina selma serena sergei sergey sergio seth shane
    shannon shanice sharon shaun shauna shawn sheila shelby shelley sheryl shirley shreya sidney
    siegfried sierra silas silvia simon simona simone siobhan sofia solomon sondra sonia sonja
    sonya sophia sophie soren spencer stacey stacy stan stanley stefan stefano stella stephan
    stephanie stephen steve steven stewart stuart sunil suresh susan susanna susie suzanne sven
    sylvia tabitha takashi takeshi talia tamara tamika tammy tania tanya tara tariq tasha tatiana
    tatyana taylor ted temitope terence teresa terrence terri terry tessa thea thelma theo
    theodora theodore theresa thierry thomas tia tiago tiffany tim timothy tina tobias toby todd
    tom tomas tomasz tommy toni tony tracey tracy travis trevor tricia trisha tristan trudy tunde
    tyler tyrone uma umar ursula usha valentina valeria valerie vanessa vasily vera verity vernon
    veronica vicente vicki vicky victoria vijay vikram vince vincent vincenzo viola vivek vivian
    viviana vivienne vladimir wally walter wanda warren wendy wilbur wilfred wilhelm wilhelmina
    william willie wilma winifred winston wojciech xavier ximena yael yasmin yasmine yolanda yosef
    youssef yuki yuri yusuf yvette yvonne zach zachary zahra zainab zara zeynep zoe zoey zofia
    zuzanna aaliyah adaeze akua amina ananya aoife azadeh babak bao bjorn bogdan chiamaka ciara
    dariusz duc eoghan esra fatema femi gita goran hamid hao haruka hiroko huda hui indira ines
    isra jaspreet jelena jiho jisoo jovan kaoru kateryna kenta khalil kwabena lan linh luka magnus
    mehreen mirela milan nadezhda naveen ngozi nguyet niamh nikhil nneka noor obinna oisin olena
    olumide omari oyin padma parisa petr pooja radek rahul rania reza ritu roisin rui saanvi sadia
    sakura saoirse sayed shanti shirin shu sinead sita sneha svetlana tadeusz tamar thanh thandiwe
    tuan vishal yan yara yejin yetunde yiannis yong yoko yusra zainab zeinab abe al alf andi ange
    art barb bea bev bill bob bobbie cath cathie charley chuck dan deb debbie dee del dick dot
    drew ed elle em emmy gabe gail gene gerry ginny greg gus hal hank izzy jack jake jaz jeb jez
    jo jock jojo kat katy kev kit kitty lenny lexi lexie lil maddy manny marge maz meg mel micky
    mo nan nat nicki nikki norm oli ozzy pam pat patty pip rae reg rich rob robbie rod ronny roz
    russ sal sammy sandy shel sid sonny steph stu sue suzie tess tiff tilly tonya trish val vic
    viv walt wes zack zak
    """
)
"""In lower case."""
SURNAMES = listed(
    """
    abbott abdi abdullah abebe abrams acharya achebe acosta adams addison adebayo adeyemi adkins
    agarwal aguilar ahmed akhtar akintola alexander alfaro ali allen almeida alvarado alvarez
    amari anand andersen anderson andersson andrade andrews antonov aoki appiah armstrong arnold
    arora asante ashby ashworth atkins atkinson austin avila ayala azevedo baker bailey balogun
    banerjee barber barbosa barker barnes barnett barrera barrett barron bartlett barton bassett
    bauer baxter beaumont beck becker beckett bekele benavides bennett benson berger bergman
    bergstrom bernard bhatt bhattacharya bianchi bishop blackwell blair blake blanchard blom
    bolton bose boucher bowen bowman boyd boyle bradford bradley bradshaw brady brandt braun
    brennan brewer briggs brien bright brooks brown browning bruno bryant buchanan buckley burgess
    burke burnett burns burton butler byrne cabrera caldwell callahan calloway calderon cameron
    campbell campos cannon cardoso carlson carlsson carpenter carr carrillo carroll carson carter
    carvalho castillo castro cervantes chakraborty chambers chan chandler chang chapman chatterjee
    chaudhary chavez chen cheng cheung chew cho choi chopra chowdhury christensen chukwu chung
    clark clarke clayton clements cohen coleman collins colombo connolly connor conrad contreras
    conway cooper copeland cordova cormier correia cortez costa coulter cowan cox craig crawford
    cruz cunningham curran curtis dalton daly daniels das davenport davidson davies davila davis
    dawson dean decker delaney delgado deluca demir deng desai devlin dhillon diallo diaz dickson
    dietrich diaz dixon do dobson dominguez donaldson donnelly donovan doran dos douglas downing
    doyle dubois dudley duffy dumont duncan dunn duran duarte dutta dyer eaton edwards eklund
    ellington elliott ellis emerson eriksen eriksson escobar espinoza estrada evans eze falk farah
    farooq farrell faulkner fernandes fernandez ferrari ferreira ferguson figueroa finch fischer
    fisher fitzgerald fitzpatrick fleming fletcher flores flynn fonseca fontaine forbes forster
    foster fowler fox francis franco franklin fraser frazier freeman friedman frost fuchs fuentes
    fujita fuller gallagher gallo galvez garcia gardner garner garrett garrison garza gauthier
    george ghosh gibbons gibbs gibson gilbert gill gillespie gilmore giordano girard glover goh
    goldberg goldman gomes gomez goncalves gonzales gonzalez goodman goodwin gordon goto gough
    graham grant graves gray greco greene greenwood greer gregory griffin griffith griffiths
    grimes gross gruber guerra guerrero gunn gupta gustafsson gutierrez guzman haddad haas hahn
    haines hale hall hamilton hammond hampton han hancock hanley hansen hanson haque harding hardy
    harper harrington harris harrison hart hartman harvey hashimoto hassan hawkins hayashi hayes
    haynes healy heath hein henderson hendricks henry herbert hernandez herrera herrmann hess
    hewitt hicks higgins hills hinton ho hobbs hodge hodges hoffman hoffmann hogan holden holland
    hollis holloway holmes holt hopkins horn horton horvat hossain houston howard howe howell
    huang huber hubbard hudson huff hughes hull hunt hunter hurley hussain hussein hutchinson
    hwang ibarra ibrahim inoue irwin islam ismail ito ivanov ivanova iyer jackson jacobs jacobsen
    jacobson jain jamal james jansen janssen jarvis jenkins jennings jensen jha jimenez johansen
    johansson johns johnson johnston jones jordan jorgensen joseph joshi juarez kamara kaminski
    kang kapoor kapur karlsson kato katz kaufman kaur kaya keane keller kelley kelly kemp kennedy
    kent kerr khalil khan kiel kim kimura king kirby kirk klein knight knox kobayashi koch kovac
    kovacs kowalski kowalczyk kramer krause krishnan kruger kuhn kumar kuznetsov kwan kwon lal lam
    lambert lancaster lane lang larsen larson larsson lau lawrence lawson leblanc lee lehmann leon
    leonard leung levin levine levy lewis li liang lim lima lin lindberg lindgren lindsay ling
    little liu livingston lloyd lo logan lombardi long lopes lopez lowe lozano lucas lucero luna
    lund lynch lyon lyons macdonald machado mack mackay mackenzie maclean madden madsen maguire
    maher mahmood maier malhotra malik mancini mann manning maldonado marchetti marin marino
    markovic marks marsh marshall martin martinez martinelli martins mason massey mathews mathur
    matsumoto matthews maxwell mayer maynard mbeki mcallister mcarthur mcbride mccall mccann
    mccarthy mcclain mcclure mccormack mccormick mccoy mccullough mcdaniel mcdermott mcdonald
    mcdowell mcgee mcgrath mcguire mcintosh mcintyre mckay mckee mckenna mckenzie mckinney
    mclaughlin mclean mcleod mcmahon mcmillan mcnamara mcneil mcpherson medina mehta mejia
    melendez mendes mendez mendoza mensah mercado mercer merritt meyer meyers michaels middleton
    miles miller mills miranda mishra mitchell mohamed mohammed molina monroe montgomery montoya
    moody moon mooney moore mora morales moran moreau moreira moreno morgan mori moriarty morris
    morrison morrow morse morton moss moyo mueller mukherjee muller mullins munoz munro murphy
    murray musa myers nadeem nair nakamura nakashima nash navarro nazari ndiaye neal nelson
    neumann newman newton ng ngo nguyen nicholls nichols nicholson nielsen nikolaidis nilsson
    nkosi noble nolan norman norris norton novak nowak nunez nwosu o'brien o'connell o'connor
    o'donnell o'hara o'keefe o'leary o'malley o'neal o'neill o'reilly o'rourke o'sullivan oakley
    obi ochoa odonnell ogawa okafor okamoto okeke okonkwo okoro okoye oliveira oliver olsen olson
    onyango orozco ortega ortiz osborne osei osman ota owen owens owusu pacheco padilla page
    palmer pandey papadopoulos pappas park parker parks parra parrish parsons patel paterson
    patterson patton paul payne pearce pearson peck pedersen pena pennington pereira perez perkins
    perry persson petersen peterson petit petrov petrova pham phan phillips pierce pineda pinto
    pittman popov porter potter powell powers pratt preston price prieto prince pritchard qureshi
    quinn rahman rai raman ramirez ramos ramsay ramsey randall rangel rao rasmussen ray raymond
    reddy reed rees reese reeves reid reilly reyes reynolds rhodes ribeiro ricci richards
    richardson richter riddle riggs riley rios ritter rivas rivera rivers roberts robertson
    robinson robles rocha rodgers rodrigues rodriguez rogers rojas romano romero rosales rosario
    rosen rosenberg ross rossi rossi rousseau rowe rowland roy rubio ruiz russell russo rutherford
    ryan saad saeed saito salazar salinas samuels sanchez sanders sanderson sandoval santana
    santiago santos sato sawyer schaefer schmidt schmitt schneider schneider schroeder schultz
    schulz schuster schwartz schwarz scott seo serrano sesay shah shaikh shapiro sharif sharma
    sharp shaw shea shelton shepherd sheppard sheridan sherman shields shimizu short shukla
    siddiqui silva silverman simmons simon simpson sinclair singh sinha skinner slater sloan small
    smirnov smith snyder soares sokolov solis solomon somerville song sorensen soto sousa souza
    sparks spence spencer srinivasan stafford stanley stanton steele stein steiner stephens
    stephenson sterling stevens stevenson stewart stokes stone stout strickland strong stuart
    suarez sullivan summers sutherland sutton suzuki svensson swanson sweeney sykes szabo
    takahashi talbot tan tanaka tang tate taylor teixeira temple terrell terry thapa thatcher
    thomas thompson thomson thornton tobin todd torres townsend tran trevino trujillo tucker
    turner tyler underwood upton uribe valdez valencia valentine van vance vargas vasquez vaughan
    vaughn vazquez vega velasquez velez venkatesan vera vincent vogel volkov wagner walker wallace
    waller walsh walter walters walton wang ward warner warren washington watanabe waters watkins
    watson watts weaver webb weber webster weeks weiss welch wells werner west wheeler whitaker
    white whitehead whitfield whitney wiggins wilcox wiley wilkins wilkinson williams williamson
    willis wilson winter winters wolf wolfe wong wood woodard woods woodward wright wu wyatt xu
    yamada yamamoto yamazaki yang yates yilmaz yoder york yoshida young yu yusuf zamora zapata
    zhang zhao zheng zhou zhu zimmerman zuniga o'shea delacroix vandenberg whittaker hargreaves
    pemberton blackwood ashford fairfax holloway thackeray winslow kingsley radcliffe hathaway
    lockhart merriweather abara adeleke afolabi agbaje nakagawa takeda fukuda ueda ogunleye mwangi
    kamau otieno wanjiru dlamini zulu mokoena ncube banda phiri traore keita coulibaly cisse toure
    sow haile tesfaye girma
    """
)
"""In lower case; of those written O', with it."""
TITLES = listed(
    """
    mr mrs ms miss mx dr prof professor doctor sir madam dame lord lady capt captain col colonel
    gen lt lieutenant sgt sergeant maj major officer detective inspector constable judge justice
    senator sen rep congressman congresswoman governor gov president mayor chancellor minister
    councillor cllr ambassador rev reverend fr father sister brother pastor rabbi imam bishop
    nurse coach uncle aunt auntie aunty grandma grandpa granny nana cousin mister missus herr frau
    monsieur madame mme mlle señor senor señora senora sra señorita don doña signor signora agent
    attorney secretary deputy sheriff trooper principal dean chef king queen prince princess saint
    pope messrs hon eng engr esq chief
    """
)
AMBIGUOUS = listed(
    """
    angel april art august austin autumn basil bea berry bill bishop blake bob bonny brandy brook
    brooke candy carol chad chance charity chase chelsea chen christian cliff clay cody colt
    crystal cruz dale dallas dawn dean del devon dick dill don dot drew earl ed em eve faith fern
    flora florence fox frank gale gail gene georgia ginger glen grace grant guy hal hazel heath
    heather holly honey hope hunter ike ike ira iris ivy jack jade jan jasmine jay jean jen joy
    june jun jordan ken kit kitty lance lane lee leo lily lil lou luna mae major mark martin mason
    max may mel melody mercedes mercy miles milo min ming mini mo misty morgan nan nat nick norm
    noel nova olive page paige paris parker pat patience pearl penny pip pat poppy quinn rae ralph
    ray reed rex rich rob robin rod roman rose ross ruby rue rush sage sal sally sandy savannah
    scarlett shane sierra sky skip solomon sonny stan sterling sue summer sydney tab taylor ted
    terry tiff troy val van vera vic victor victoria viola violet virginia wade wally ward warren
    wes will willow winter woody yan yong art bao duc hao hui lan linh rui shu tuan uma ana ali
    alma an asha ava may mara lara lena lola
    """
)
"""Given names, and surnames, that are ordinary words or places, too."""
PLAIN_SURNAMES = listed(
    """
    abbott baker bailey barber bishop blake bright brooks brown burns butler cannon carpenter
    carter chambers chandler chapman clark cook cooper cox cross curtis dean do dos downing dyer
    falk finch fisher fleming ford forbes fowler fox francis franklin freeman frost fuller gardner
    garner george glover graves gray green greene grant gross gunn hale hall hart heath hills
    holland hood hope horn houston hull hunt hunter jordan judge kemp kent king knight lake lam
    lane lang law leon li lim lin little lo long lowe luna lyon lyons mack mann marks marsh mason
    mercer miles miller mills moon moody moss newman newton ng ngo noble page palmer park parker
    parks parks paul peck pierce porter potter powers price prince rangel ray reed rivers rose
    rowe sharp shields short small snow sparks steele sterling stone strong summers tan tang
    temple todd van vance ward washington waters watts weaver webster weeks wells west wheeler
    white wiley winter winters wolf wolfe wood woods york young banda yu wu xu song ito mora ho
    han ling khan vera cruz santos costa rosario santiago valencia victoria santana lima roman
    conrad franco may rice bell berry rich wise love day best cash church bush crane drake field
    fields flood flowers foot forest french german gates gold golden grove hammer harden hardy
    high hill house ivory joy land lamb lemon lord major may means mark martin nation nail north
    oak owen paine pike pool pope post pound power quick rain read reason sage school sea self
    shade shepherd shore silver singer skipper smart snyder south speed spring star street sugar
    sweet swift taylor thomas towns trout twist underwood vale wall walker wallace walls walsh
    warner winner worth wright
    """
)
PARTICLES = listed(
    """
    van von der den de la le da das do dos di del della du bin ibn bint al el ben ter ten zu zur
    st af av y e mac mc abu abd ul ur-rahman
    """
)
PINYIN_SURNAMES = listed(
    """
    zhang wang li liu chen yang huang zhao wu zhou xu sun ma zhu hu guo he gao lin luo zheng liang
    xie song tang deng han feng cao peng zeng xiao tian dong pan yuan cai jiang yu du ye cheng wei
    su lu ding ren shen yao lyu cui zhong tan fan wang liao shi jin jia xia fu fang zou xiong bai
    meng qin qiu hou shao mao hao gong wan qian yan lai tong qi xiang kong ouyang sima zhuge
    shangguan lv chan wong cheung leung chow kwok tsai hsu chiu lam ng
    """
)
