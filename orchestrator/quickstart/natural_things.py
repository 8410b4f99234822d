"""What nature makes: animals, plants, weather and sky, and the places one can visit, each with five facts.

Written as in `made_things`.
"""

NATURAL_THINGS = """
bees (they): make *honey*; live together in a *hive*; carry *pollen* between flowers; have one *queen*;
    show each other the way with a *dance*
an owl: hunts at *night*; flies without a *sound*; turns its *head* far around; eats *mice*; sleeps in a hollow *tree*
a beaver: builds *dams* in rivers; fells trees with its *teeth*; has a flat *tail*; lives in a *lodge* of sticks;
    swims with *webbed* feet
a camel: stores fat in its *hump*; can go without *water* for days; walks on wide soft *feet*;
    closes its *nostrils* against sand; carries *loads* through dry land
a whale: can grow longer than a *bus*; breathes *air* at the surface; sings under *water*; feeds its young with *milk*;
    crosses whole *oceans*
a tortoise: carries a hard *shell*; can live for a *century*; walks very *slowly*; eats *grass* and leaves;
    hides its head from *danger*
a hedgehog: rolls into a *ball*; is covered with *spines*; eats *beetles* and worms; sleeps through the *winter*;
    comes out at *dusk*
a spider: has eight *legs*; spins *silk*; catches *flies*; feels every *tremble* of its web; is not an *insect*
a fox: has a bushy *tail*; lives in a *den*; hunts with sharp *ears*; is known for being *clever*; has red *fur*
an oak: grows from an *acorn*; can live for *centuries*; has very hard *wood*; feeds jays and *squirrels*;
    drops its *leaves* in autumn
bamboo: is a kind of *grass*; grows very *fast*; feeds the *panda*; has a hollow *stem*; is used to build *houses*
moss: grows in *damp* shade; has no true *roots*; holds water like a *sponge*; covers *stones* in green;
    was on land long before *flowers*
a cactus: stores *water* in its stem; has *spines* instead of leaves; needs plenty of *sun*; opens bright *flowers*;
    rots in *wet* soil
a sunflower: follows the *sun* while it is young; can grow taller than a *person*; gives tasty *seeds*;
    has yellow *petals*; feeds many *birds*
lavender: has a calming *scent*; blooms in *purple*; likes dry *soil*; keeps *moths* out of wardrobes;
    is grown for its *oil*
ivy: climbs up old *walls*; stays green in *winter*; holds on with tiny *roots*; gives shelter to *birds*;
    has *poisonous* berries
a mushroom: is a *fungus* and not a plant; spreads by tiny *spores*; grows in the *forest*; can be good to *eat*;
    can also be *poisonous*
a tulip: grows from a *bulb*; blooms in *spring*; closes its flower at *night*; was once worth a *fortune*;
    comes in many *colours*
rain: falls from dark *clouds*; fills *rivers* and wells; makes plants *grow*; is caught in *barrels*;
    wets the dry *earth*
snow: falls in tiny *flakes*; covers the land in *white*; makes the world *quiet*; melts in *spring*;
    is made of *crystals*
fog: is a *cloud* near the ground; hides the *road*; slows down *ships*; forms on cool *mornings*; vanishes in the *sun*
thunder: follows *lightning*; rolls over the *hills*; scares many *dogs*; is the sound of heated *air*;
    can be heard for *miles*
a rainbow: shows many *colours*; needs sun and falling *drops*; appears with the sun at your *back*; forms a wide *arc*;
    seldom lasts an *hour*
frost: forms on clear *nights*; paints *patterns* on windows; harms young *plants*; sparkles in the *morning*;
    comes when the air is below *zero*
hail: falls as balls of *ice*; breaks *windows*; flattens *crops*; comes from tall *storms*; rattles on *roofs*
a comet: is made of ice and *dust*; has a long bright *tail*; circles the *sun*; returns after many *years*;
    was once feared by *kings*
the moon: circles the *earth*; shines with light of the *sun*; moves the *tides*; seems to change its *shape*;
    was visited by *astronauts*
a lighthouse: warns *ships* of rocks; turns a bright *lamp*; stands on the *coast*; was once tended by a *keeper*;
    can be seen for *miles*
a harbour: shelters *boats* from storms; has cranes and *piers*; smells of *fish*; is busy at *dawn*;
    is guarded by a long *wall*
a library: lends *books* for free; has a quiet *reading* room; sorts all its *shelves*; is open to *everyone*;
    gives each member a *card*
a market: sells fresh *fruit*; opens early in the *morning*; gathers many *farmers*; rings with loud *voices*;
    is a good place to *bargain*
a desert: gets very little *water*; is hot by *day* and cold by night; has *dunes* of sand; wakes up in the *evening*;
    can be crossed by *caravan*
a volcano: throws out *lava*; stands over melted *rock*; makes the soil around it *fertile*; can *sleep* for ages;
    covers the land with *ash*
an island: has *water* on every side; is reached by *boat*; has rare *animals*; can be born from *fire* under the sea;
    often has sandy *beaches*
a castle: has thick stone *walls*; was built for *defence*; is entered over a *drawbridge*; hides a deep *cellar*;
    was home to *knights*
a glacier: is a slow stream of *ice*; carves *valleys*; carries *boulders* along; feeds cold *rivers*;
    shrinks in *warm* years
"""
