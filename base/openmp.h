/* OpenMP's threads among others. */
#ifndef TV3S_BASE_OPENMP_H
#define TV3S_BASE_OPENMP_H

/* Called first in main. GNU OpenMP's idle threads spin for milliseconds before they sleep, which on
 * a machine with other work (our own decoder is enough) starves the thread they wait for: twenty
 * times slower on two busy cores. The only way to shorten that is an environment variable that the
 * library reads before main, so this sets it and starts the program again. It returns where the
 * user has set one of OpenMP's own variables, or where starting again fails. */
void openmp_spin_less(char **argv);

#endif
