/* Who computes at length stands behind those that work briefly.
 *
 * The engine and an upload's decoder take all the time there is; the network and the workers take
 * less than a millisecond for a frame, at four places on its way, and clients wait for each. At the
 * same priority they wait for the engine's time slice first, 3 ms and more. So the threads that
 * compute at length are a little nicer, and an engine that is waited for loses no more than what
 * the frame's own steps take. */
#ifndef TV3S_SERVER_PRIORITY_H
#define TV3S_SERVER_PRIORITY_H

/* The calling thread, and threads that it makes later, computes at length. */
void priority_lower(void);

#endif
