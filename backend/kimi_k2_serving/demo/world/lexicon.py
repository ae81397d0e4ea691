"""Everyday words, for names that are not made up."""

from __future__ import annotations


def _parts(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


WORDS = _parts(
    "copper,lantern,willow,harbour,pepper,marble,thunder,velvet,basket,ribbon,anchor,autumn,badge,bamboo,"
    "barrel,beacon,berry,blanket,blossom,border,bottle,branch,bridge,bright,bubble,bucket,button,cabin,"
    "cactus,camera,candle,canvas,carbon,castle,cedar,cherry,circle,clever,cloud,clover,coast,cobalt,comet,"
    "coral,corner,cotton,crystal,dancer,dawn,delta,desert,diamond,dolphin,double,dragon,dream,eagle,early,"
    "earth,echo,ember,engine,falcon,feather,field,finger,flame,flower,forest,fossil,fresh,frozen,galaxy,"
    "garden,gentle,ginger,glacier,golden,grain,grape,gravel,guitar,hammer,happy,hazel,helmet,hidden,"
    "hollow,honey,horizon,hunter,island,ivory,jacket,jasmine,jungle,kettle,kitten,ladder,lagoon,laptop,"
    "lemon,linen,lively,lizard,lucky,magnet,maple,market,meadow,melon,metal,midnight,mirror,modern,monkey,"
    "morning,mountain,music,needle,nickel,noble,novel,number,ocean,olive,onion,orange,orbit,orchid,oyster,"
    "paddle,palace,panda,paper,parrot,pebble,pencil,phoenix,piano,pillow,pilot,pine,planet,plastic,pocket,"
    "polar,poppy,prairie,prism,puzzle,quartz,quiet,rabbit,radar,rainbow,random,raven,river,robin,rocket,"
    "rusty,saddle,saffron,sailor,salmon,sandal,saturn,scarlet,shadow,shell,shelter,signal,silent,silver,"
    "simple,sketch,slate,socket,solar,sparrow,spiral,spring,square,stable,star,steel,stone,storm,stream,"
    "sugar,summer,sunset,swift,table,talent,temple,tender,thistle,tiger,timber,topaz,tower,trail,tulip,"
    "tunnel,turtle,twilight,valley,vapor,vessel,village,violet,vivid,voyage,walnut,warm,water,window,"
    "winter,wisdom,wonder,wooden,yellow,zebra,zenith"
)

# What authors put before or after the name of a tool, and around the name of a parameter.
BEFORE = _parts(
    "my,app,api,home,do,user,smart,quick,new,core,data,sys,remote,local,main,fast,open,ext,office,demo,"
    "acme,the,run,call,use,internal,public,basic,simple,agent,server,team,web,auto"
)
AFTER = _parts(
    "tool,now,v1,v2,api,fn,action,call,request,service,command,op,func,2,helper,task,function,query,"
    "plugin,skill,x,info,job,endpoint,main,all,here,data"
)
AROUND = (
    "{}", "{}", "{}_name", "target_{}", "the_{}", "{}_value", "input_{}", "{}_text", "q_{}", "{}_param", "my_{}", "{}1",
    "{}_id", "request_{}", "{}_str", "user_{}", "{}_arg", "given_{}", "new_{}", "{}_input",
)  # fmt: skip
