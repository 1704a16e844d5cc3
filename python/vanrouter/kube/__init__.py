"""
A Kubernetes API server, and what a site keeps there. ``docs/kubernetes-design.md`` has the objects and who writes them.

Nothing outside this package knows HTTP, kubeconfigs or resource versions; nothing in it knows links, streams or routing. No model classes
are loaded: objects are plain dictionaries.

    decide   errors      what can go wrong, by whose fault
             calls       calls as values, and what the answers mean           kinds   the kinds of objects that we touch
             listwatch   a copy of one kind of objects, kept in step: time and chance are arguments
             names       names and labels of our objects                       records   resources and status in ConfigMaps
             conversation  what router and controller say to each other
    drive    access      credentials and whom to trust                         kubeconfig   where they come from
             session     what both drivers share      client  for trio         blocking   for threads
             watching    drives listwatch                                channel    router and controller: mutual TLS
             home        resources in ConfigMaps      state   keys in Secrets  ledger   grants in Secrets
"""
