"""What people make: tools, crafts, food and household things, each with five facts.

One subject an entry: its name as it stands inside a sentence, then predicates that all follow from the name.
A starred word is the fact's keyword; "(they)" marks a plural. No fact names another subject of the corpus.
"""

MADE_THINGS = """
a hammer: drives *nails* into wood; has a heavy *steel* head; can pull with its *claw*; needs a firm *grip*;
    swings from the *elbow*
a saw: cuts *planks* with sharp teeth; starts best with a slow *stroke*; leaves fine *dust* behind;
    must be kept dry against *rust*; follows a *pencil* line
a chisel: carves *joints* in furniture; is struck with a wooden *mallet*; has a flat *blade*;
    is sharpened on a wet *stone*; should never point at the *body*
a ladder: reaches *roofs* and high shelves; stands on firm *ground*; leans at a safe *angle*; has *rungs* to climb;
    should be held by a *helper*
a compass: points to the *north*; holds a magnetic *needle*; guides *sailors* at sea; turns wrong near *iron*;
    works without a *battery*
a spade: digs *holes* in the garden; turns over heavy *soil*; has a *wooden* handle; cuts through thin *roots*;
    should be wiped clean with a *rag*
a lantern: gives *light* in the dark; shields its flame behind *glass*; burns *oil* or wax; hangs from a *hook*;
    leads *travellers* through the night
an anchor: keeps a *ship* in place; grips the *seabed*; hangs on a long *chain*; is lifted with a *winch*;
    can weigh several *tons*
a wheelbarrow: carries *sand* and stones; rolls on a single *wheel*; has two long *handles*; saves a gardener's *back*;
    tips its load out at the *front*
pottery: shapes wet *clay* into bowls; uses a turning *wheel*; needs a hot *kiln*; gets its shine from *glaze*;
    is one of the *oldest* crafts
weaving: crosses *threads* over and under; is done on a *loom*; makes *cloth* for clothes; asks for great *patience*;
    can show bright *patterns*
knitting: makes *scarves* and socks; needs two long *needles*; turns *wool* into loops; keeps the *fingers* busy;
    can be undone by one *pull*
bookbinding: sews *pages* together; gives each book a strong *cover*; uses paper, *linen* and glue;
    needs a heavy *press*; can *rescue* an old book
basketry: bends *willow* into shape; starts with the *base*; needs twigs that were *soaked*; makes strong *containers*;
    is older than work in *metal*
glass blowing: begins with melted *sand*; uses a long hollow *pipe*; needs a steady *breath*; makes *bottles* and bowls;
    must let the glass cool *slowly*
origami: folds *paper* into figures; has a long history in *Japan*; needs no *scissors*; begins with a *square* sheet;
    can make a *crane* with wings
calligraphy: is the art of *handwriting*; uses a broad *pen*; needs dark *ink*; asks for a calm *hand*;
    makes each *letter* beautiful
photography: catches *moments* for later; depends on good *light*; needs a clear *lens*;
    can take the *portrait* of a friend; began with plates of *metal*
bread: is baked from *flour*; rises with the help of *yeast*; gets a brown *crust*; needs time in a hot *oven*;
    tastes best when it is *fresh*
cheese: is made from *milk*; ripens in a cool *cellar*; keeps longer with a hard *rind*; can be soft or *firm*;
    sometimes has *holes* in it
soup: simmers in a large *pot*; warms people in *winter*; uses up old *vegetables*; gets its taste from *herbs*;
    is eaten with a *spoon*
rice: grows in flooded *fields*; feeds *billions* of people; is boiled or *steamed*; can be white or *brown*;
    should be *rinsed* first
chocolate: is made from *cacao* beans; melts in the *mouth*; was once a bitter *drink*; tastes *sweet* with sugar;
    is bad for *dogs*
tea: is brewed from dried *leaves*; grows on cool *hills*; can be *green* or black; calms the *mind*;
    should not *steep* too long
salt: comes from the *sea* or from mines; makes food *tasty*; keeps meat from *spoiling*; melts *ice* on roads;
    forms small *crystals*
apples (they): grow in *orchards*; ripen in early *autumn*; can be pressed into *juice*; taste good in a *pie*;
    have small *seeds* in the middle
pancakes (they): are made of flour, milk and *eggs*; need a hot *pan*; are turned with a quick *flip*;
    taste good with *syrup*; should be served *warm*
a bicycle: runs on two *wheels*; is moved with *pedals*; needs air in its *tyres*; keeps its rider *healthy*;
    must have good *brakes*
a piano: has eighty-eight *keys*; strikes its *strings* with felt; can be loud or *soft*; has *pedals* for the feet;
    must be *tuned* every year
a violin: has four *strings*; is played with a *bow*; rests under the *chin*; is carved from *spruce*;
    leads the *orchestra*
a clock: shows the *hours*; has two turning *hands*; is often driven by a *spring*; ticks in a quiet *room*;
    wakes people with its *bell*
a mirror: shows your own *face*; is *glass* with a thin bright coat; seems to swap *left* and right;
    makes a room look *larger*; should be wiped with a soft *cloth*
a telescope: brings far *stars* near; gathers *light* with a lens; stands on a firm *tripod*;
    works best on clear *nights*; showed Galileo four moons of *Jupiter*
a windmill: has four large *sails*; grinds *grain*; turns with moving *air*; can also pump *water*;
    stands on open *land*
a kite: flies on a long *string*; needs a steady *breeze*; has a light *frame*; keeps straight with its *tail*;
    is made of paper or *silk*
a map: shows *roads* and towns; has a *scale* for distances; puts *north* at the top; folds into a *pocket*;
    explains its signs in a *legend*
a kettle: boils *water*; sings with *steam*; has a curved *spout*; stands on the *stove*; should be freed of *lime*
a candle: burns on a *wick*; is made of *wax*; gives a warm *glow*; drips in a *draught*; was used before *electricity*
"""
